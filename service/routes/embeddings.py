"""OpenAI's wire format for word vectors and for the list of models."""

from __future__ import annotations

import base64
from datetime import datetime

from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from bundle.manifest import Manifest
from bundle.vectors import Vectors
from service.errors import Problem, invalid
from service.house import House
from service.parsing import AnyRequest, read_json
from service.responses import Json
from service.routes import described
from service.schemas import (
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    ModelCard,
    ModelList,
    Usage,
)
from service.trace import trace_of


def embed(vectors: Vectors, words: list[str], asked: EmbeddingsRequest) -> list[Embedding]:
    """The vectors of `words`, written as asked.

    Raises:
        Problem: a word is unknown, or another number of dimensions is wanted than the model has.
    """
    for place, word in enumerate(words):
        if word not in vectors and not vectors.composes(word):
            field = "input" if isinstance(asked.input, str) else f"input[{place}]"
            detail = f"the word {word!r} is not in the vocabulary of {vectors.manifest.name}"
            raise invalid(field, detail, code="unknown_word")
    found = vectors.embed(words)
    size = found.shape[1]
    if asked.dimensions not in (None, size):
        raise invalid("dimensions", f"{vectors.manifest.name} has {size} dimensions", limit=size)
    if asked.encoding_format == "base64":
        texts = (base64.b64encode(row.astype("<f4").tobytes()).decode() for row in found)
        return [Embedding(place, text) for place, text in enumerate(texts)]
    return [Embedding(place, row) for place, row in enumerate(found.tolist())]


def card(manifest: Manifest) -> ModelCard:
    created = datetime.fromisoformat(manifest.provenance.created)
    return ModelCard(manifest.name, int(created.timestamp()))


def routes(house: House) -> list[HTTPRouteHandler]:
    """POST /v1/embeddings, GET /v1/models and /v1/models/{id}."""

    @post(
        "/v1/embeddings",
        status_code=200,
        opt=described("embeddings", "Vectors of words", body=EmbeddingsRequest, answer=EmbeddingsAnswer),
    )
    async def embeddings(request: AnyRequest) -> Json:
        asked = await read_json(request, EmbeddingsRequest)
        vectors = house.registry.named(asked.model, Vectors, "embeddings")
        trace_of(request.scope).revision = vectors.manifest.revision
        words = [asked.input] if isinstance(asked.input, str) else asked.input
        most = house.settings.batch_texts
        if len(words) > most:
            raise invalid(
                "input", f"has {len(words)} words, at most {most}", limit=most, code="too_many_texts"
            )
        usage = Usage(len(words), len(words))
        return Json(EmbeddingsAnswer(embed(vectors, words, asked), vectors.manifest.name, usage))

    @get("/v1/models", opt=described("meta", "The open bundles", answer=ModelList))
    async def models(request: AnyRequest) -> Json:
        return Json(ModelList([card(each.manifest) for each in house.registry]))

    @get("/v1/models/{name:str}", opt=described("meta", "One open bundle", answer=ModelCard))
    async def model(request: AnyRequest) -> Json:
        each = house.registry.opened.get(request.path_params["name"])
        if each is None:
            raise Problem(404, "unknown_model", "there is no model of that name", field="model")
        return Json(card(each.manifest))

    return [embeddings, models, model]
