"""What Hugging Face's InferenceClient posts: to `/models/{name}`, or to `/`, where the body says the task."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import UNSET

from bundle.language import Language
from bundle.load import Model
from bundle.translator import TranslationOptions, Translator
from bundle.vectors import Vectors
from service.errors import invalid
from service.house import House
from service.parsing import AnyRequest, read_json
from service.responses import Json
from service.routes import described
from service.routes.generation import generated
from service.routes.models import opened
from service.routes.tei import compared, embedded, no_prompt, vectors_of
from service.routes.texts import check_texts, task_of, translated
from service.schemas_hugging import (
    AnyRequestBody,
    EmbedRequest,
    GenerationParameters,
    HuggingError,
    TeiSimilarityInputs,
    TeiSimilarityParameters,
    TranslationText,
    TranslationWishes,
)
from service.trace import trace_of

_OF_EMBED = ("normalize", "truncate", "truncation_direction", "prompt_name", "dimensions", "encoding_format")


def _text(asked: AnyRequestBody) -> str:
    if not isinstance(asked.inputs, str):
        raise invalid("inputs", "must be one text")
    return asked.inputs


async def vectors(house: House, request: AnyRequest, model: Vectors, asked: AnyRequestBody) -> Json:
    """feature-extraction, and sentence-similarity where the inputs are an object."""
    if isinstance(asked.inputs, dict):
        wishes = msgspec.convert(asked.parameters or {}, TeiSimilarityParameters)
        no_prompt(wishes.prompt_name)
        inputs = msgspec.convert(asked.inputs, TeiSimilarityInputs)
        return Json(compared(house, request, model, inputs))
    given = {name: value for name in _OF_EMBED if (value := getattr(asked, name)) is not None}
    given |= asked.parameters or {}
    wishes_of = msgspec.convert({"inputs": asked.inputs} | given, EmbedRequest)
    return Json(embedded(house, request, model, wishes_of))


async def translation(house: House, request: AnyRequest, model: Translator, asked: AnyRequestBody) -> Json:
    """translation, by the model of the URL."""
    text = _text(asked)
    wishes = msgspec.convert(asked.parameters or {}, TranslationWishes)
    for field, code, own in (
        ("src_lang", wishes.src_lang, model.source_language),
        ("tgt_lang", wishes.tgt_lang, model.target_language),
    ):
        if code is not None and _language(code) != own:
            raise invalid(field, f"{model.manifest.name} has {own} there, not {code[:20]}")
    check_texts(house, "inputs", [text])
    [found] = await translated(house, request, model, [text], TranslationOptions())
    return Json([TranslationText(found.text)])


def _language(code: str) -> str:
    """`fr` of `fr`, `fr_XX`, `fra_Latn` and `fr-CA`."""
    short = code.lower().replace("-", "_").split("_")[0]
    return {"eng": "en", "fra": "fr", "fre": "fr"}.get(short, short)


def translator_of(house: House, asked: AnyRequestBody) -> Translator:
    """The translator between the languages of the parameters.

    Raises:
        Problem: there is none.
    """
    wishes = msgspec.convert(asked.parameters or {}, TranslationWishes)
    source, target = _language(wishes.src_lang or ""), _language(wishes.tgt_lang or "")
    found = house.registry.targets.get(source, {}).get(target)
    if found is None:
        raise invalid("tgt_lang", f"{source[:20]} to {target[:20]} is not supported", code="unknown_language")
    return found


def language_of(house: House, text: str) -> Language:
    """The model of the text's language, the same for the same text each time."""
    served = house.registry.completion_languages()
    return house.registry.language_for(house.detector.best(text, served) if served else "", None)


def guessed(house: House, asked: AnyRequestBody) -> Model:
    """The model of a request without a name. InferenceClient sends `parameters` with all but feature
    extraction, an object with similarity, both languages with translation; what is left is generation.
    """
    generation = asked.stream is not UNSET or asked.parameters is not None
    if not isinstance(asked.inputs, str) or not generation:
        return vectors_of(house, None, None)
    if {"src_lang", "tgt_lang"} & set(asked.parameters or ()):
        return translator_of(house, asked)
    return language_of(house, asked.inputs)


def routes(house: House) -> list[HTTPRouteHandler]:
    """POST / and /models/{name}."""

    async def answer(request: AnyRequest, model: Model, asked: AnyRequestBody) -> ASGIApp:
        trace_of(request.scope).task = task_of(model)
        if isinstance(model, Vectors):
            return await vectors(house, request, model, asked)
        if isinstance(model, Translator):
            return await translation(house, request, model, asked)
        wishes = msgspec.convert(asked.parameters or {}, GenerationParameters)
        return await generated(house, request, model, _text(asked), wishes, stream=asked.stream is True)

    def told(what: str) -> dict[str, Any]:
        return described(
            "other",
            what,
            body=AnyRequestBody,
            answer=Any,
            error=HuggingError,
            also=["text/event-stream"],
            example={"inputs": "king"},
        )

    @post(
        "/models/{name:str}",
        status_code=200,
        opt=told("Hugging Face's feature extraction, similarity, generation or translation, by the model"),
    )
    async def named(request: AnyRequest) -> ASGIApp:
        each = opened(house.registry, request.path_params["name"])
        return await answer(request, each.model, await read_json(request, AnyRequestBody))

    @post("/", status_code=200, opt=told("The same, by the shape of the body"))
    async def unnamed(request: AnyRequest) -> ASGIApp:
        asked = await read_json(request, AnyRequestBody)
        return await answer(request, guessed(house, asked), asked)

    return [named, unnamed]
