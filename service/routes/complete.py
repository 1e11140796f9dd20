"""Completion of a prompt, whole or as server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from bundle.language import Completion, CompletionOptions, Language
from service.answers import Question, Stream
from service.errors import from_exception
from service.house import House
from service.parsing import AnyRequest, check_text, is_fresh, read_json, read_query
from service.problems import details
from service.responses import EventStream, Json, event
from service.routes import decoded, described, encoder, name_of
from service.schemas import Choice, CompleteAnswer, CompleteRequest, TokenEvent
from service.trace import Trace, trace_of

logger = logging.getLogger("voisin")


def _choices(found: list[Completion]) -> list[Choice]:
    return [
        Choice(each.text, each.finish_reason, round(each.logprob, 6), each.word, each.tokens)
        for each in found
    ]


_encode = encoder(_choices)


def question(
    model: Language,
    prompt: str | list[int],
    options: CompletionOptions,
    *,
    shape: type = list[Choice],
    encode: Callable[[Any], bytes] = _encode,
) -> Question:
    """The question to a model, checked, with every default filled in: what every dialect asks.

    Args:
        shape, encode: of the cached answer, where the options ask for more than a `Choice` holds.
    """
    wishes = model.resolve(options)
    return Question(
        task="complete",
        model=model.manifest.name,
        revision=model.manifest.revision,
        request=[prompt, wishes],
        shape=shape,
        encode=encode,
        job=lambda: model.job(prompt, options),
        cacheable=wishes.seed is not None,
    )


def choose(house: House, asked: CompleteRequest) -> Language:
    """The model asked for; without a language that of the prompt, the same for the same prompt each time."""
    if asked.model is not None:
        return house.registry.named(asked.model, Language, "complete")
    lang = asked.lang
    if lang is None:
        served = house.registry.completion_languages()
        lang = house.detector.best(asked.prompt, served) if served else ""
    return house.registry.language_for(lang, asked.level)


def ask(house: House, asked: CompleteRequest) -> tuple[Language, Question]:
    """The model and the question to it, checked, with every default filled in."""
    check_text("prompt", asked.prompt, house.settings.text_chars)
    model = choose(house, asked)
    level = asked.level or ("char" if model.manifest.level == "char" else "word")
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop)
    options = CompletionOptions(
        level,
        asked.max_tokens,
        asked.n,
        asked.beam,
        asked.temperature,
        asked.top_k,
        asked.top_p,
        asked.seed,
        stop,
    )
    return model, question(model, asked.prompt, options)


def _body(model: Language, choices: bytes) -> CompleteAnswer:
    return CompleteAnswer(msgspec.Raw(choices), name_of(model.manifest))


async def frames(model: Language, stream: Stream, trace: Trace) -> AsyncIterator[bytes]:
    """`token` events, then always one more: `done` with the whole answer, or `error` with a problem."""
    try:
        async for piece in stream.pieces():
            yield event("token", TokenEvent(piece.choice, piece.text))
        choices = stream.whole()
        if stream.cached is not None:
            for number, choice in enumerate(msgspec.json.decode(choices, type=list[Choice])):
                if choice.text:
                    yield event("token", TokenEvent(number, choice.text))
        yield event("done", _body(model, choices))
    except Exception as error:
        problem = from_exception(error)
        trace.outcome = problem.outcome or "error"
        if problem.status == 500:
            logger.exception("a stream failed", extra={"data": {"request_id": trace.request_id}})
        yield event("error", details(problem, trace.request_id))


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET and POST /complete."""

    async def answer(request: AnyRequest, asked: CompleteRequest) -> ASGIApp:
        model, question = ask(house, asked)
        trace = trace_of(request.scope)
        trace.revision = model.manifest.revision
        fresh = is_fresh(request)
        if asked.stream:
            stream = await house.answers.stream(question, fresh=fresh, trace=trace)
            return EventStream(frames(model, stream, trace), stream.close)
        [choices] = await decoded(house, request, [question])
        return Json(_body(model, choices))

    @get(
        "/complete",
        opt=described(
            "complete",
            "Continue a text",
            query=CompleteRequest,
            answer=CompleteAnswer,
            also=["text/event-stream"],
        ),
    )
    async def complete(request: AnyRequest) -> ASGIApp:
        return await answer(request, read_query(request, CompleteRequest))

    @post(
        "/complete",
        status_code=200,
        opt=described(
            "complete",
            "Continue a text",
            body=CompleteRequest,
            answer=CompleteAnswer,
            also=["text/event-stream"],
        ),
    )
    async def complete_posted(request: AnyRequest) -> ASGIApp:
        return await answer(request, await read_json(request, CompleteRequest))

    return [complete, complete_posted]
