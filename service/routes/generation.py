"""Text generation as text-generation-inference answers it, whole or as its stream."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import msgspec
from litestar.types import ASGIApp

from bundle.completion import TokenLogprob
from bundle.language import CompletionOptions, Language
from bundle.tokenizer import Tokenizer
from service.answers import Question
from service.dialects import generation_error
from service.errors import from_exception, invalid
from service.house import House
from service.parsing import AnyRequest, check_text, is_fresh
from service.responses import EventStream, Json
from service.routes import decoded
from service.routes.complete import question
from service.routes.openai import best, encode_told, spelt
from service.routes.texts import own_level
from service.schemas_hugging import (
    Generated,
    GeneratedPiece,
    GeneratedToken,
    GenerationDetails,
    GenerationParameters,
    StreamDetails,
)
from service.schemas_openai import ToldChoice
from service.stream import Stream
from service.trace import Trace, trace_of

logger = logging.getLogger("voisin")

Reason = Literal["length", "eos_token", "stop_sequence"]


def _options(model: Language, wishes: GenerationParameters, stream: bool) -> CompletionOptions:
    """Chance decides where it is asked for by name, or by a wish that means nothing without it."""
    given = (wishes.temperature, wishes.top_k, wishes.top_p)
    sampled = wishes.do_sample or any(value is not None for value in given)
    temperature = 1.0 if wishes.temperature is None else wishes.temperature
    told = wishes.details or stream
    return CompletionOptions(
        level=own_level(model),
        max_tokens=wishes.max_new_tokens,
        n=(wishes.best_of or 1) if sampled else 1,
        beam=1,
        temperature=temperature if sampled else 0.0,
        top_k=wishes.top_k or 0,
        top_p=1.0 if wishes.top_p is None else wishes.top_p,
        seed=wishes.seed,
        stop=tuple(wishes.stop or ()),
        frequency_penalty=wishes.frequency_penalty or 0.0,
        logprobs=(wishes.top_n_tokens or 0) if told else None,
    )


async def generated(
    house: House,
    request: AnyRequest,
    model: Language,
    text: str,
    wishes: GenerationParameters,
    *,
    stream: bool,
) -> ASGIApp:
    """The answer to a prompt.

    Raises:
        Problem, InvalidRequest: a wish that cannot be met, naming the parameter.
    """
    check_text("inputs", text, house.settings.text_chars)
    if stream and (wishes.best_of or 1) > 1:
        raise invalid("best_of", "a stream sends what it draws: best_of must be 1")
    trace = trace_of(request.scope)
    trace.revision = model.manifest.revision
    options = _options(model, wishes, stream)
    asked = question(model, text, options)
    if options.logprobs is not None:
        asked = question(model, text, options, shape=list[ToldChoice], encode=encode_told)
    if stream:
        return await _streamed(house, request, model, text, wishes, asked)
    [value] = await decoded(house, request, [asked])
    [choice] = best(msgspec.json.decode(value, type=list[ToldChoice]), 1)
    body = Generated((text if wishes.return_full_text else "") + choice.text)
    if wishes.details:
        body.details = _details(model.tokenizer, wishes, choice)
    return Json([body])


def _details(tokenizer: Tokenizer, wishes: GenerationParameters, choice: ToldChoice) -> GenerationDetails:
    tokens = [_token(tokenizer, each.id, each.logprob) for each in choice.logprobs]
    found = GenerationDetails(_reason(wishes, choice), choice.tokens, wishes.seed, [], tokens)
    if wishes.top_n_tokens:
        found.top_tokens = [
            [_token(tokenizer, id, value) for id, value in each.top] for each in choice.logprobs
        ]
    return found


def _token(tokenizer: Tokenizer, id: int, logprob: float) -> GeneratedToken:
    return GeneratedToken(id, spelt(tokenizer, id), round(logprob, 6), id in tokenizer.special_ids)


def _reason(wishes: GenerationParameters, choice: ToldChoice) -> Reason:
    if choice.finish_reason == "length":
        return "length"
    # the tokens that a stop string took part in are generated, and not among those told
    return "stop_sequence" if wishes.stop and choice.tokens > len(choice.logprobs) else "eos_token"


async def _streamed(
    house: House,
    request: AnyRequest,
    model: Language,
    text: str,
    wishes: GenerationParameters,
    asked: Question,
) -> EventStream:
    trace = trace_of(request.scope)
    stream = await house.answers.stream(asked, fresh=is_fresh(request), trace=trace)
    return EventStream(_frames(model, text, wishes, stream, trace), stream.close)


async def _frames(
    model: Language, text: str, wishes: GenerationParameters, stream: Stream, trace: Trace
) -> AsyncIterator[bytes]:
    """An event for each piece of text, and one more with the whole, or with an `error`."""
    index = 0
    try:
        async for piece in stream.pieces():
            index += 1
            yield _frame(GeneratedPiece(index, _piece(piece.text, piece.logprobs)))
        [choice] = msgspec.json.decode(stream.whole(), type=list[ToldChoice])
        if stream.cached is not None and choice.text:
            index += 1
            yield _frame(GeneratedPiece(index, _piece(choice.text, choice.logprobs)))
        eos = model.manifest.special.eos
        end = GeneratedToken(0 if eos is None else eos, "", 0.0, True)
        details = StreamDetails(_reason(wishes, choice), choice.tokens, wishes.seed, len(model.read(text)[1]))
        whole = (text if wishes.return_full_text else "") + choice.text
        yield _frame(GeneratedPiece(index + 1, end, whole, details))
    except Exception as error:
        problem = from_exception(error)
        trace.outcome = problem.outcome or "error"
        if problem.status == 500:
            logger.exception("a stream failed", extra={"data": {"request_id": trace.request_id}})
        yield _frame(generation_error(problem))


def _piece(text: str, tokens: Sequence[TokenLogprob]) -> GeneratedToken:
    """Text that came together; of several tokens it has the last one's id, and the sum of their odds."""
    last = tokens[-1].id if tokens else 0
    return GeneratedToken(last, text, round(sum(each.logprob for each in tokens), 6))


def _frame(body: object) -> bytes:
    return b"data:%b\n\n" % msgspec.json.encode(body)
