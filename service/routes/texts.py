"""Texts in, results out: what the dialects ask whose requests name nothing but a model and its texts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bundle.language import CompletionLevel, CompletionOptions, Language
from bundle.load import Model
from bundle.translator import TranslationOptions, Translator
from bundle.vectors import Vectors
from service.errors import invalid
from service.house import House
from service.parsing import AnyRequest, check_text
from service.routes import decoded
from service.routes.complete import question
from service.routes.translate import Task, ask
from service.schemas import Choice, Translated
from service.trace import trace_of


def own_level(model: Language) -> CompletionLevel:
    """What `max_tokens` counts where nobody says: letters, or tokens."""
    return "char" if model.manifest.level == "char" else "token"


def task_of(model: Model) -> str:
    """What a model does, in the words of the metrics."""
    if isinstance(model, Vectors):
        return "embeddings"
    return "complete" if isinstance(model, Language) else "translate"


def check_texts(house: House, field: str, texts: Sequence[str]) -> None:
    """That there are neither too many texts nor too long ones.

    Raises:
        Problem: 400, naming `field`.
    """
    most = house.settings.batch_texts
    if not 0 < len(texts) <= most:
        raise invalid(
            field, f"has {len(texts)} texts; there must be 1 to {most}", limit=most, code="too_many_texts"
        )
    for text in texts:
        check_text(field, text, house.settings.text_chars)


async def continued(
    house: House, request: AnyRequest, model: Language, texts: Sequence[str], options: CompletionOptions
) -> list[Choice]:
    """The first choice of each text, decoded together."""
    trace_of(request.scope).revision = model.manifest.revision
    values = await decoded(house, request, [question(model, text, options) for text in texts])
    return [msgspec.json.decode(value, type=list[Choice])[0] for value in values]


async def translated(
    house: House, request: AnyRequest, model: Translator, texts: Sequence[str], options: TranslationOptions
) -> list[Translated]:
    """Each text by this translator, decoded together."""
    trace_of(request.scope).revision = model.manifest.revision
    questions = [ask(Task(text, None, model), options) for text in texts]
    values = await decoded(house, request, [each for each in questions if each is not None])
    return [msgspec.json.decode(value, type=Translated) for value in values]
