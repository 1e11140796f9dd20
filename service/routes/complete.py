"""Completion of a prompt, whole or as server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import UNSET

from bundle.language import Completion, CompletionOptions, Language
from service.answers import Question
from service.errors import from_exception
from service.house import House
from service.parsing import AnyRequest, check_text, is_fresh, read_json, read_query
from service.problems import details
from service.responses import EventStream, Json, Last, event
from service.routes import decoded, described, encoder, name_of, refusing
from service.schemas import Choice, CompleteAnswer, CompleteRequest, TokenEvent
from service.stream import Stream
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
        size=len(prompt),
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


class Asked(NamedTuple):
    """A request understood: the model that answers, the question to it, and whether known words begin with
    the letters typed."""

    model: Language
    question: Question
    known: bool


def ask(house: House, asked: CompleteRequest) -> Asked:
    """The model and the question to it, checked, with every default filled in.

    Letters that no known word begins with are gone on from by a model of characters, where there is one.
    """
    check_text("prompt", asked.prompt, house.settings.text_chars)
    model, prompt = choose(house, asked), asked.prompt
    level = asked.level or ("char" if model.manifest.level == "char" else "word")
    known = level != "word" or model.knows(prompt)
    speller = None if known or asked.model is not None else house.registry.speller_for(model)
    if speller is not None:
        model.read(prompt)  # what is too long for one model is too long
        tail = speller.tail(prompt)
        if tail is not None:
            model, prompt = speller, tail
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
    return Asked(model, question(model, prompt, options), known)


def _body(asked: Asked, choices: bytes) -> CompleteAnswer:
    known = UNSET if asked.known else False
    return CompleteAnswer(msgspec.Raw(choices), name_of(asked.model.manifest), known)


async def frames(asked: Asked, stream: Stream, trace: Trace) -> AsyncIterator[bytes]:
    """`token` events, then always one more: `done` with the whole answer, or `error` with a problem."""
    held = b""  # what comes last goes with the end
    try:
        async for pieces in stream.batches():
            sent = b"".join([event("token", TokenEvent(piece.choice, piece.text)) for piece in pieces])
            if stream.answered:
                held = sent
            else:
                yield sent
        choices = stream.whole()
        if stream.cached is not None:
            for number, choice in enumerate(msgspec.json.decode(choices, type=list[Choice])):
                if choice.text:
                    held += event("token", TokenEvent(number, choice.text))
        yield Last(held + event("done", _body(asked, choices)))
    except Exception as error:
        problem = from_exception(error)
        trace.outcome = problem.outcome or "error"
        if problem.status == 500:
            logger.exception("a stream failed", extra={"data": {"request_id": trace.request_id}})
        yield Last(held + event("error", details(problem, trace.request_id)))


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET and POST /complete."""

    async def answer(request: AnyRequest, asked: CompleteRequest) -> ASGIApp:
        understood = ask(house, asked)
        trace = trace_of(request.scope)
        trace.revision = understood.model.manifest.revision
        fresh = is_fresh(request)
        if asked.stream:
            stream = await house.answers.stream(understood.question, fresh=fresh, trace=trace)
            return EventStream(frames(understood, stream, trace), stream.close)
        [choices] = await decoded(house, request, [understood.question])
        return Json(_body(understood, choices))

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
    @refusing
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
