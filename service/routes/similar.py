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
from service.trace import trace_of

_ASKED = "GET /similar?"  # no hash of a canonical request begins so
_REVISION = 12  # characters
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


def look_up(house: House, asked: SimilarQuery) -> tuple[Vectors, msgspec.Raw] | None:
    """:func:`neighbours` of a word that the table of them has: the common case, by the shortest way.

    It is cheaper than a key of the cache, let alone a round trip to Redis, so neither is asked.
    """
    if asked.restrict_vocab:
        return None
    for vectors in house.registry.vectors_for(asked.lang, asked.model):
        id = vectors.find(asked.word)
        if id is None:
            continue
        found = house.prepared[vectors.manifest.name].of(id, asked.topn)
        return None if found is None else (vectors, msgspec.Raw(found))
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


def recall(house: House, request: AnyRequest) -> Answer | None:
    """The whole answer to a query that was asked before in the same letters: what most questions are.

    Bundles do not change while the process lives, so neither does what a query means.
    """
    found = house.memory.look_up(_ASKED + request.scope["query_string"].decode("latin-1"))
    if found is None:
        return None
    house.metrics.cache["memory", "hit"].inc()
    trace = trace_of(request.scope)
    trace.revision = found[:_REVISION].decode()
    trace.cache = "hit"
    return Answer(found[_REVISION:])


def remember(house: House, request: AnyRequest, answer: Answer) -> None:
    """Keeps a whole answer for :func:`recall`, in this process alone."""
    asked = _ASKED + request.scope["query_string"].decode("latin-1")
    house.memory.keep(asked, trace_of(request.scope).revision.encode() + answer.body)


def _no_job() -> NoReturn:
    raise AssertionError("neighbours are not decoded")


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET and POST /similar."""

    @get("/similar", opt=described("similar", "Nearest words", query=SimilarQuery, answer=SimilarAnswer))
    async def similar(request: AnyRequest) -> Answer:
        fresh = is_fresh(request)
        if not fresh and (recalled := recall(house, request)) is not None:
            return recalled
        asked = read_query(request, SimilarQuery)
        seen: bool | UnsetType = UNSET
        looked_up = look_up(house, asked)
        if looked_up is None:
            vectors, found, seen = await neighbours(house, request, asked, [asked.word], [])
        else:
            vectors, found = looked_up
            trace = trace_of(request.scope)
            trace.revision, trace.cache = vectors.manifest.revision, "miss"
            house.metrics.cache["memory", "miss"].inc()
        model = name_of(vectors.manifest)
        answer = Json(SimilarAnswer(word=asked.word, seen=seen, neighbours=found, model=model))
        if looked_up is None or not fresh:  # a fresh look-up finds what was kept already
            remember(house, request, answer)
        return answer

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
