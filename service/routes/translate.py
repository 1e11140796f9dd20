"""LibreTranslate's wire format: POST /translate, POST /detect, GET /languages, GET /frontend/settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from bundle.markup import read_html
from bundle.translator import MAX_TERMS, Glossary, Translation, TranslationOptions, Translator
from bundle.units import read_text, words_of_parts
from service.answers import Question
from service.errors import Problem, invalid
from service.house import House
from service.parsing import AnyRequest, check_text, read_json_or_form
from service.responses import Json
from service.routes import decoded, described, encoder, name_of, refusing
from service.schemas import (
    Alignment,
    Detected,
    DetectRequest,
    FrontendLanguages,
    FrontendSettings,
    LanguageName,
    ModelName,
    ServedLanguage,
    TranslateAnswer,
    Translated,
    TranslateRequest,
)
from service.trace import trace_of

T = TypeVar("T")

# What a browser's menu shows; a code that is not here shows as itself.
NAMES = {
    "ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "it": "Italian",
    "ja": "Japanese", "la": "Latin", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ru": "Russian",
    "tr": "Turkish", "uk": "Ukrainian", "zh": "Chinese",
}  # fmt: skip

AUTO = "auto"
_TERM = 200  # characters of a term


def _translated(found: Translation) -> Translated:
    links = [Alignment(*link) for link in found.alignments]
    return Translated(found.text, found.alternatives, round(found.score, 6), found.truncated, links)


_encode = encoder(_translated)


@dataclass(frozen=True)
class Task:
    """One text of a request: what was detected, and who translates it; nobody, where nothing is to do."""

    text: str
    detected: Detected | None
    translator: Translator | None


def check(house: House, asked: TranslateRequest) -> list[str]:
    """The texts of a request whose other members are in order."""
    if asked.format not in ("text", "html"):
        detail = f"{asked.format[:32]} format is not supported; text and html are"
        raise invalid("format", detail, code="unsupported_format")
    return check_texts(house, asked.q)


def check_texts(house: House, given: str | list[str]) -> list[str]:
    """A text, or the texts of a list, within the limits.

    Raises:
        Problem: 400 where there is none, one is too long, or there are too many.
    """
    texts = [given] if isinstance(given, str) else given
    if not texts or given == "":
        raise invalid("q", "Invalid request: missing q parameter", code="missing_field")
    most = house.settings.batch_texts
    if len(texts) > most:
        raise invalid(
            "q", f"request ({len(texts)}) exceeds batch limit ({most})", limit=most, code="too_many_texts"
        )
    return [check_text("q", text, house.settings.text_chars) for text in texts]


def options_of(asked: TranslateRequest) -> TranslationOptions:
    """The wishes of a request whose members are in order."""
    return TranslationOptions(
        beam=asked.beam,
        alternatives=asked.alternatives,
        format="html" if asked.format == "html" else "text",
        glossary=_glossary(asked.glossary),
        alignments=asked.alignments,
    )


def _glossary(given: str | list[str] | dict[str, str]) -> Glossary:
    if not given:
        return ()
    terms = {given: given} if isinstance(given, str) else given
    pairs = terms if isinstance(terms, dict) else {term: term for term in terms}
    if len(pairs) > MAX_TERMS:
        detail = f"has {len(pairs)} terms, and {MAX_TERMS} are read at most"
        raise invalid("glossary", detail, limit=MAX_TERMS)
    for term in (*pairs, *pairs.values()):
        if not 0 < len(term.strip()) <= _TERM or "\n" in term or "\r" in term:
            raise invalid("glossary", f"a term has from 1 to {_TERM} characters, on one line", limit=_TERM)
    return tuple(sorted(pairs.items()))


class Desk:
    """Which translator for which text."""

    def __init__(self, house: House, asked: TranslateRequest) -> None:
        self._house = house
        self._table = house.registry.targets
        self._model = None
        source, target = asked.source.lower(), asked.target.lower()
        if asked.model is not None:
            self._model = house.registry.named(asked.model, Translator, "translate")
            given = (self._model.source_language if source == AUTO else source, target)
            if given != (self._model.source_language, self._model.target_language):
                languages = " to ".join(self._model.manifest.languages)
                raise invalid("model", f"{self._model.manifest.name} translates {languages}")
        if not self._table:
            raise Problem(404, "no_model", "no bundle is open that could answer translate")
        self._check("source", source, AUTO)
        self._check("target", target)
        self._source, self._target = source, target
        self._read = read_html if asked.format == "html" else read_text

    def _check(self, field: str, code: str, *also: str) -> None:
        if code in self._table or code in also or any(code in row for row in self._table.values()):
            return
        known = {*also, *self._table, *(target for row in self._table.values() for target in row)}
        detail = f"{code[:20]} is not supported; {', '.join(sorted(known))}"
        raise invalid(field, detail, code="unknown_language")

    def assign(self, text: str) -> Task:
        """Who translates `text`.

        Raises:
            Problem: 400 where nobody translates between its languages.
        """
        source, detected = self._source, None
        if source == AUTO:
            detected = self._detect(text)
            source = detected.language
        if self._model is not None:
            return Task(text, detected, self._model)
        if source == self._target:
            return Task(text, detected, None)
        translator = self._table.get(source, {}).get(self._target)
        if translator is None:
            raise invalid("target", f"{source} to {self._target} is not supported", code="unknown_language")
        return Task(text, detected, translator)

    def _detect(self, text: str) -> Detected:
        sources = [code for code, row in self._table.items() if self._target in row]
        for code, share in self._house.detector.rank(words_of_parts(self._read(text, {}))):
            if code == self._target or code in sources:
                return Detected(round(100 * share, 1), code)
        return Detected(0.0, sources[0] if sources else self._target)


def ask(task: Task, options: TranslationOptions) -> Question | None:
    """The question to the translator of a task."""
    if task.translator is None:
        return None
    translator, text = task.translator, task.text
    return Question(
        task="translate",
        model=translator.manifest.name,
        revision=translator.manifest.revision,
        request=[text, translator.resolve(options)],
        shape=Translated,
        encode=_encode,
        job=lambda: translator.job(text, options),
        size=len(text),
    )


def answer(asked: TranslateRequest, tasks: list[Task], found: list[Translated]) -> TranslateAnswer:
    """The answer in the shape of the question: a list for a list."""

    def shaped(values: list[T]) -> T | list[T]:
        return values[0] if isinstance(asked.q, str) else values

    body = TranslateAnswer(shaped([each.text for each in found]))
    models = _models(tasks)
    if models:
        body.model = models[0] if len(models) == 1 else models
    if asked.source.lower() == AUTO:
        body.detected_language = shaped([task.detected for task in tasks if task.detected is not None])
    if asked.alternatives:
        lists: list[list[str]] = [each.alternatives for each in found]
        body.alternatives = [*shaped(lists)]
    if asked.scores:
        body.scores = shaped([each.score for each in found])
    if asked.alignments:
        links: list[list[Alignment]] = [each.alignments for each in found]
        body.alignments = [*shaped(links)]
    body.truncated = any(each.truncated for each in found)
    return body


def _models(tasks: list[Task]) -> list[ModelName]:
    used = {task.translator.manifest.name: task.translator for task in tasks if task.translator is not None}
    return [name_of(translator.manifest) for translator in used.values()]


def routes(house: House) -> list[HTTPRouteHandler]:
    """The routes of LibreTranslate."""

    @post(
        "/translate",
        status_code=200,
        opt=described("translate", "Translate", body=TranslateRequest, answer=TranslateAnswer, form=True),
    )
    @refusing
    async def translate(request: AnyRequest) -> Json:
        asked = await read_json_or_form(request, TranslateRequest)
        texts = check(house, asked)
        desk = Desk(house, asked)
        tasks = [desk.assign(text) for text in texts]
        options = options_of(asked)
        questions = [question for task in tasks if (question := ask(task, options)) is not None]
        trace_of(request.scope).revision = ",".join(model.revision for model in _models(tasks)) or "none"
        values = iter(await decoded(house, request, questions) if questions else [])
        found = [
            Translated(task.text, [], 0.0, False)
            if task.translator is None
            else msgspec.json.decode(next(values), type=Translated)
            for task in tasks
        ]
        return Json(answer(asked, tasks, found))

    @post(
        "/detect",
        status_code=200,
        opt=described(
            "detect",
            "Which of the served languages is it?",
            body=DetectRequest,
            answer=list[Detected | list[Detected]],
            form=True,
        ),
    )
    async def detect(request: AnyRequest) -> Json:
        asked = await read_json_or_form(request, DetectRequest)
        found = [detected(text) for text in check_texts(house, asked.q)]
        return Json(found[0] if isinstance(asked.q, str) else found)

    def detected(text: str) -> list[Detected]:
        ranked = house.detector.rank(words_of_parts(read_text(text, {})))
        found = [Detected(round(100 * share, 1), code) for code, share in ranked if share >= 0.005]
        return found or [Detected(0.0, house.registry.codes[0])]

    @get("/languages", opt=described("meta", "What can be translated into what", answer=list[ServedLanguage]))
    async def languages(request: AnyRequest) -> Json:
        table = house.registry.targets
        return Json(
            [ServedLanguage(code, NAMES.get(code, code), sorted({code, *row})) for code, row in table.items()]
        )

    @get(
        "/frontend/settings",
        opt=described("meta", "What LibreTranslate's front end may do here", answer=FrontendSettings),
    )
    async def frontend(request: AnyRequest) -> Json:
        table = house.registry.targets
        code = next((code for row in table.values() for code in row), house.registry.codes[0])
        menus = FrontendLanguages(
            LanguageName(AUTO, "Auto Detect"), LanguageName(code, NAMES.get(code, code))
        )
        keyed = house.keys is not None
        most = house.settings.text_chars
        return Json(FrontendSettings(most, menus, api_keys=keyed, key_required=keyed))

    return [translate, detect, languages, frontend]
