"""Text Embeddings Inference: POST /embed and /similarity."""

from __future__ import annotations

import numpy as np
from litestar import post
from litestar.handlers import HTTPRouteHandler

from bundle.vectors import Vectors
from service.errors import Problem, invalid
from service.house import House
from service.parsing import AnyRequest, read_json
from service.pooling import pool, shorten
from service.responses import Json
from service.routes import described
from service.routes.embeddings import readings
from service.schemas_hugging import (
    EmbedRequest,
    HuggingError,
    TeiSimilarityInputs,
    TeiSimilarityParameters,
    TeiSimilarityRequest,
)
from service.trace import trace_of


def vectors_of(house: House, model: str | None, lang: str | None) -> Vectors:
    """The vectors asked for, else the first: vectors of two models must not meet by chance.

    Raises:
        Problem: there are none.
    """
    if model is not None:
        return house.registry.named(model, Vectors, "embed")
    found = house.registry.vectors
    if lang is not None:
        found = [each for each in found if lang in each.manifest.languages]
        if not found and house.registry.vectors:
            raise invalid("lang", f"there are no vectors of {lang}", code="unknown_language")
    if not found:
        raise Problem(404, "no_model", "no bundle is open that could answer embed")
    return found[0]


def no_prompt(name: str | None) -> None:
    if name:
        raise invalid("prompt_name", "no model here has prompts: leave prompt_name out", code="unsupported")


def embedded(house: House, request: AnyRequest, vectors: Vectors, asked: EmbedRequest) -> list[list[float]]:
    """The vector of each input."""
    no_prompt(asked.prompt_name)
    trace_of(request.scope).revision = vectors.manifest.revision
    normalize = asked.normalize is not False
    rows = pool(vectors, readings(house, vectors, "inputs", asked.inputs), normalize=normalize)
    if asked.dimensions is not None:
        rows = [shorten(row, asked.dimensions) for row in rows]
    return [row.tolist() for row in rows]


def compared(house: House, request: AnyRequest, vectors: Vectors, asked: TeiSimilarityInputs) -> list[float]:
    """The cosine of the source with each sentence."""
    trace_of(request.scope).revision = vectors.manifest.revision
    [source] = pool(vectors, readings(house, vectors, "source_sentence", asked.source_sentence))
    rows = np.stack(pool(vectors, readings(house, vectors, "sentences", [*asked.sentences])))
    scores: list[float] = np.clip(rows @ source, -1.0, 1.0).tolist()
    return scores


def routes(house: House) -> list[HTTPRouteHandler]:
    """POST /embed and /similarity."""

    @post(
        "/embed",
        status_code=200,
        opt=described(
            "embeddings",
            "TEI's vectors of texts",
            body=EmbedRequest,
            answer=list[list[float]],
            error=HuggingError,
            example={"inputs": ["king", "the queen"]},
        ),
    )
    async def embed(request: AnyRequest) -> Json:
        asked = await read_json(request, EmbedRequest)
        return Json(embedded(house, request, vectors_of(house, asked.model, asked.lang), asked))

    @post(
        "/similarity",
        status_code=200,
        opt=described(
            "embeddings",
            "TEI's cosines of a text with others",
            body=TeiSimilarityRequest,
            answer=list[float],
            error=HuggingError,
            example={"inputs": {"source_sentence": "the king", "sentences": ["the queen", "the river"]}},
        ),
    )
    async def similarity(request: AnyRequest) -> Json:
        asked = await read_json(request, TeiSimilarityRequest)
        no_prompt((asked.parameters or TeiSimilarityParameters()).prompt_name)
        return Json(compared(house, request, vectors_of(house, asked.model, asked.lang), asked.inputs))

    return [embed, similarity]
