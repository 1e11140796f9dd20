"""Nearest words and analogies, answered on the event loop: handing them over would cost more than they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET, UnsetType

from bundle.errors import UnknownWord
from bundle.relations import most_similar_by_product
from bundle.vectors import Key, Vectors, weigh
from service.answers import Question
from service.errors import invalid
from service.house import House
from service.parsing import AnyRequest, is_fresh, read_json, read_query
from service.prepared import encode_neighbours
from service.responses import Answer, Json
from service.routes import described, name_of
from service.schemas import Neighbour, SimilarAnswer, SimilarQuery, SimilarRequest
from service.trace import Trace, trace_of

_ASKED = "GET /similar?"  # no hash of a canonical request begins so
_REVISION = slice(-15, -3)  # of an answer, which ends with the revision, a quotation mark and two braces
_SHORT = 200  # bytes of a query; a word has no more characters
_INLINE = 50_000_000  # numbers of a table that are scanned in a few milliseconds


async def choose(candidates: list[Vectors], words: list[str]) -> tuple[Vectors, list[Key]]:
    """The first vocabulary that has all the words, and what stands for them; where none has, the first that
    can compose what it lacks.

    Raises:
        UnknownWord: none has them; names the first word that the likeliest vocabulary lacks.
        InvalidRequest: a word is blank.
    """
    lacking = []
    for vectors in candidates:
        ids = [vectors.find(word) for word in words]
        known = [id for id in ids if id is not None]
        if len(known) == len(words):
            return vectors, [*known]
        lacking.append((len(known), words[ids.index(None)]))
    for vectors in candidates:
        if all(word in vectors or vectors.composes(word) for word in words):
            return vectors, [vectors.key(word) for word in words]
    _, word = max(lacking, key=lambda each: each[0])
    if not word.strip():
        raise invalid("word", "is blank")
    # milliseconds over a large vocabulary: not on the event loop
    suggested = await asyncio.gather(*(asyncio.to_thread(v.did_you_mean, word) for v in candidates))
    near = [each[place] for place in range(5) for each in suggested if place < len(each)]
    raise UnknownWord(word, list(dict.fromkeys(near))[:5])


async def neighbours(
    house: House,
    request: AnyRequest,
    asked: SimilarQuery | SimilarRequest,
    positive: list[str],
    negative: list[str],
) -> tuple[Vectors, msgspec.Raw, bool | UnsetType]:
    """Who answers, the encoded neighbours, from the cache or from the vectors, and what `seen` says."""
    candidates = house.registry.vectors_for(asked.lang, asked.model)
    vectors, keys = await choose(candidates, positive + negative)
    trace = trace_of(request.scope)
    trace.revision = vectors.manifest.revision
    seen = False if any(isinstance(key, str) for key in keys) else UNSET
    ours, theirs = keys[: len(positive)], keys[len(positive) :]
    topn, among = asked.topn, asked.restrict_vocab
    canonical: list[object] = [ours, theirs, topn]
    if isinstance(asked, SimilarRequest) and asked.method == "multiply":
        product = partial(most_similar_by_product, vectors, positive, negative, topn, among=among)
        found = await kept(
            house,
            request,
            vectors,
            [*canonical, among, "multiply"],
            list[Neighbour],
            product,
            encode_neighbours,
        )
        return vectors, msgspec.Raw(found), seen
    terms = weigh(ours, theirs)
    nearest = partial(vectors.nearest_to, terms, topn, among=among)
    if not among and vectors.is_looked_up(terms, topn):
        return vectors, msgspec.Raw(encode_neighbours(nearest())), seen
    canonical += [among] if among else []
    found = await kept(house, request, vectors, canonical, list[Neighbour], nearest, encode_neighbours)
    return vectors, msgspec.Raw(found), seen


class Beside:
    """What queries say beside their word, read once: most requests differ in the word alone.

    Args:
        most: different ones that are known at a time.
    """

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._known: dict[bytes, tuple[list[Vectors], int]] = {}

    def read(self, query: bytes) -> tuple[str, list[Vectors], int] | None:
        """The word, the vocabularies to try and `topn` of a query that begins with a word in plain letters,
        where the rest of it was learnt; None of any other, which has to be read.
        """
        if not query.startswith(b"word=") or len(query) > _SHORT:
            return None
        word, _, rest = query[5:].partition(b"&")
        known = self._known.get(rest)
        if known is None or b"%" in word or b"+" in word or not word.isascii():
            return None
        return word.decode(), *known

    def learn(self, query: bytes, asked: SimilarQuery, candidates: list[Vectors]) -> None:
        """Take note of a query that was read; of one that asks for more than look-ups there is nothing to."""
        word, _, rest = query[5:].partition(b"&")
        if query.startswith(b"word=") and word == asked.word.encode() and not asked.restrict_vocab:
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[rest] = (candidates, asked.topn)


def look_up(house: House, candidates: list[Vectors], word: str, topn: int, trace: Trace) -> bytes | None:
    """The whole answer about a word that the table of neighbours has: the common case, by the shortest way.

    It is cheaper than a key of the cache, let alone a round trip to Redis, so neither is asked.
    """
    for vectors in candidates:
        id = vectors.find(word)
        if id is None:
            continue
        manifest = vectors.manifest
        body = house.prepared[manifest.name].answer(word, id, topn)
        if body is not None:
            trace.revision, trace.cache = manifest.revision, "miss"
            house.metrics.cache["memory", "miss"].inc()
        return body
    return None


async def kept(
    house: House,
    request: AnyRequest,
    vectors: Vectors,
    canonical: list[object],
    shape: type,
    compute: Callable[[], Any],
    encode: Callable[[Any], bytes],
) -> bytes:
    """An answer of `vectors` from the cache, or computed and kept; on a thread where that takes long."""
    trace, fresh = trace_of(request.scope), is_fresh(request)
    question = Question(
        task="similar",
        model=vectors.manifest.name,
        revision=vectors.manifest.revision,
        request=canonical,
        shape=shape,
        encode=encode,
        job=_no_job,
    )
    if vectors.rows.size * vectors.rows.hidden > _INLINE and (
        fresh or house.memory.look_up(question.key) is None
    ):
        value = await asyncio.to_thread(compute)
        return await house.answers.look_up(question, lambda: value, fresh=fresh, trace=trace)
    return await house.answers.look_up(question, compute, fresh=fresh, trace=trace)


def recall(house: House, asked: str, trace: Trace) -> Answer | None:
    """The whole answer to a query that was asked before in the same letters: what most questions are.

    Bundles do not change while the process lives, so neither does what a query means.

    Args:
        asked: the key of the answer.
    """
    found = house.memory.look_up(asked)
    if found is None:
        return None
    house.metrics.cache["memory", "hit"].inc()
    trace.revision = found[_REVISION].decode()
    trace.cache = "hit"
    return Answer(found)


def _no_job() -> NoReturn:
    raise AssertionError("neighbours are not decoded")


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET and POST /similar."""
    beside = Beside()

    @get("/similar", opt=described("similar", "Nearest words", query=SimilarQuery, answer=SimilarAnswer))
    async def similar(request: AnyRequest) -> Answer:
        trace, fresh = trace_of(request.scope), is_fresh(request)
        query = request.scope["query_string"]
        key = _ASKED + query.decode("latin-1")
        if not fresh and (recalled := recall(house, key, trace)) is not None:
            return recalled
        body = None
        if (brief := beside.read(query)) is not None:
            word, candidates, topn = brief
            body = look_up(house, candidates, word, topn, trace)
        if body is None:
            asked = read_query(request, SimilarQuery)
            candidates = house.registry.vectors_for(asked.lang, asked.model)
            beside.learn(query, asked, candidates)
            if not asked.restrict_vocab:
                body = look_up(house, candidates, asked.word, asked.topn, trace)
        if body is not None and fresh:  # it finds what was kept already
            return Answer(body)
        if body is None:
            vectors, found, seen = await neighbours(house, request, asked, [asked.word], [])
            model = name_of(vectors.manifest)
            body = msgspec.json.encode(
                SimilarAnswer(word=asked.word, seen=seen, neighbours=found, model=model)
            )
        # for `recall`, in this process alone
        house.memory.keep(key, body)
        return Answer(body)

    @post(
        "/similar",
        status_code=200,
        opt=described(
            "similar", "Analogies: positive minus negative", body=SimilarRequest, answer=SimilarAnswer
        ),
    )
    async def analogy(request: AnyRequest) -> Json:
        asked = await read_json(request, SimilarRequest)
        if not asked.positive and not asked.negative:
            raise invalid(
                "positive", "at least one word is needed in positive or negative", code="missing_field"
            )
        vectors, found, seen = await neighbours(house, request, asked, asked.positive, asked.negative)
        answer = SimilarAnswer(
            positive=asked.positive,
            negative=asked.negative,
            seen=seen,
            neighbours=found,
            model=name_of(vectors.manifest),
        )
        return Json(answer)

    return [similar, analogy]
