"""Nearest words and analogies, answered on the event loop: handing them over would cost more than they do."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET, UnsetType

from bundle.errors import UnknownWord
from bundle.vectors import Key, Vectors
from service.answers import Question
from service.errors import invalid
from service.house import House
from service.parsing import AnyRequest, is_fresh, read_json, read_query
from service.responses import Json
from service.routes import described, encoder, name_of
from service.schemas import Neighbour, SimilarAnswer, SimilarQuery, SimilarRequest
from service.trace import trace_of


def _neighbours(found: list[tuple[str, float]]) -> list[Neighbour]:
    return [Neighbour(word, round(score, 6)) for word, score in found]


_encode = encoder(_neighbours)


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
    split = len(positive)
    question = Question(
        task="similar",
        model=vectors.manifest.name,
        revision=vectors.manifest.revision,
        request=[keys[:split], keys[split:], asked.topn],
        shape=list[Neighbour],
        encode=_encode,
        job=_no_job,
    )
    found = await house.answers.look_up(
        question,
        lambda: vectors.most_similar(positive, negative, asked.topn),
        fresh=is_fresh(request),
        trace=trace,
    )
    return vectors, msgspec.Raw(found), False if any(isinstance(key, str) for key in keys) else UNSET


def _no_job() -> NoReturn:
    raise AssertionError("neighbours are not decoded")


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET and POST /similar."""

    @get("/similar", opt=described("similar", "Nearest words", query=SimilarQuery, answer=SimilarAnswer))
    async def similar(request: AnyRequest) -> Json:
        asked = read_query(request, SimilarQuery)
        vectors, found, seen = await neighbours(house, request, asked, [asked.word], [])
        model = name_of(vectors.manifest)
        return Json(SimilarAnswer(word=asked.word, seen=seen, neighbours=found, model=model))

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
