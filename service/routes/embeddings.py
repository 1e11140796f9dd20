"""OpenAI's wire format for vectors of words and short texts."""

from __future__ import annotations

import base64

from litestar import post
from litestar.handlers import HTTPRouteHandler

from bundle.errors import InvalidRequest, UnknownWord
from bundle.vectors import Vectors
from service.errors import Problem, invalid
from service.house import House
from service.parsing import AnyRequest, check_text, read_json
from service.pooling import Floats, Reading, pool, read, read_ids, shorten
from service.responses import Json
from service.routes import described
from service.schemas_openai import (
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    ErrorBody,
    Texts,
    Usage,
    listed,
)
from service.trace import trace_of


def readings(house: House, vectors: Vectors, field: str, inputs: Texts) -> list[Reading]:
    """What each input holds, checked; `field` names the member of the request that has them.

    Raises:
        Problem: 400, naming the input at fault.
    """
    texts = listed(inputs, field)
    most = house.settings.batch_texts
    if not texts:
        raise invalid(field, "must have at least one text", limit=1)
    if len(texts) > most:
        raise invalid(field, f"has {len(texts)} texts, at most {most}", limit=most, code="too_many_texts")
    several = isinstance(inputs, list) and not (inputs and isinstance(inputs[0], int))
    return [
        _reading(house, vectors, f"{field}[{place}]" if several else field, text)
        for place, text in enumerate(texts)
    ]


def _reading(house: House, vectors: Vectors, field: str, text: str | list[int]) -> Reading:
    try:
        if isinstance(text, list):
            return read_ids(vectors, text)
        return read(vectors, check_text(field, text, house.settings.text_chars))
    except UnknownWord as error:
        hint = f"; did you mean {', '.join(error.did_you_mean)}?" if error.did_you_mean else ""
        raise Problem(
            400,
            "unknown_word",
            f"the word {error.word[:64]!r} is not in the vocabulary of {vectors.manifest.name}{hint}",
            field=field,
            did_you_mean=list(error.did_you_mean),
        ) from None
    except InvalidRequest as error:
        raise invalid(field, error.message, limit=error.limit) from None


def written(vector: Floats, encoding_format: str | None) -> list[float] | str:
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def routes(house: House) -> list[HTTPRouteHandler]:
    """POST /v1/embeddings."""

    @post(
        "/v1/embeddings",
        status_code=200,
        opt=described(
            "embeddings",
            "Vectors of words and short texts",
            body=EmbeddingsRequest,
            answer=EmbeddingsAnswer,
            error=ErrorBody,
            example={"model": "words-en", "input": ["king", "the queen"]},
        ),
    )
    async def embeddings(request: AnyRequest) -> Json:
        asked = await read_json(request, EmbeddingsRequest)
        vectors = house.registry.named(asked.model, Vectors, "embeddings")
        trace_of(request.scope).revision = vectors.manifest.revision
        found = readings(house, vectors, "input", asked.input)
        rows = pool(vectors, found)
        if asked.dimensions is not None:
            rows = [shorten(row, asked.dimensions) for row in rows]
        data = [Embedding(place, written(row, asked.encoding_format)) for place, row in enumerate(rows)]
        for each, reading in zip(data, found, strict=True):
            if reading.unknown:
                each.unknown_words = reading.unknown
        tokens = sum(len(reading.known) for reading in found)
        return Json(EmbeddingsAnswer(data, vectors.manifest.name, Usage(tokens, tokens)))

    return [embeddings]
