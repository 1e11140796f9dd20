"""OpenAI's wire format for completions: one request is one question for each of its prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from bundle.completion import TokenLogprob
from bundle.language import Completion, CompletionOptions, Language
from bundle.tokenizer import Tokenizer
from service.answers import Question
from service.errors import invalid
from service.house import House
from service.parsing import AnyRequest, check_text, is_fresh, read_json
from service.responses import EventStream, Json
from service.routes import decoded, described, encoder, refusing
from service.routes.complete import question
from service.routes.openai_stream import Chunks, Relay
from service.routes.texts import own_level
from service.schemas_openai import (
    CompletionsAnswer,
    CompletionsChoice,
    CompletionsRequest,
    CompletionsUsage,
    ErrorBody,
    Logprobs,
    ToldChoice,
    listed,
)
from service.ticket import Job
from service.trace import trace_of

MAX_TOKENS = 16  # OpenAI's default


def _told(found: list[Completion]) -> list[ToldChoice]:
    return [
        ToldChoice(
            each.text,
            each.finish_reason,
            round(each.logprob, 6),
            tokens=each.tokens,
            logprobs=list(each.logprobs or ()),
        )
        for each in found
    ]


encode_told = encoder(_told)
_encode_scores = encoder(list)


class Asked:
    """One prompt of a request, and what is asked of the model about it.

    Attributes:
        text: the prompt.
        answer: None where nothing is to be generated.
        scores: the log-probabilities of the prompt itself.
    """

    def __init__(
        self, model: Language, prompt: str | list[int], answer: Question | None, scores: Question | None
    ) -> None:
        """
        Raises:
            InvalidRequest: see `Language.read`; where there is an answer, its job reads a text and raises.
        """
        self._model = model
        self._prompt = prompt
        self._counted: list[int] = []
        self.answer = answer
        self.scores = scores
        if isinstance(prompt, str) and answer is not None:
            self.text = prompt
            answer.job = partial(_made, answer.job, self._counted)
        else:
            self.text, ids = model.read(prompt)
            self._counted.append(len(ids))

    @property
    def tokens(self) -> int:
        """Of the prompt; the job has counted them, where there was one."""
        if not self._counted:
            self._counted.append(len(self._model.read(self._prompt)[1]))
        return self._counted[0]


def _made(make: Callable[[], Job], counted: list[int]) -> Job:
    job = make()
    counted.append(len(job.requests[0].prompt.ids) - 1)  # without bos
    return job


@dataclass(frozen=True)
class Order:
    """A request, checked.

    Attributes:
        n: choices sent for each prompt.
        copies: how often each generated choice is sent: at temperature 0 all of them are the same.
    """

    model: Language
    prompts: list[Asked]
    n: int
    copies: int
    echo: bool
    logprobs: int | None


def _options(model: Language, asked: CompletionsRequest, generated: int) -> CompletionOptions:
    """OpenAI's defaults, not the bundle's: temperature 1 and nothing cut."""
    given = asked.stop or ()
    seed = asked.seed
    return CompletionOptions(
        level=own_level(model),
        max_tokens=_most(model, asked),
        n=generated,
        beam=1,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_k=max(asked.top_k or 0, 0),
        # 0 leaves the likeliest alone, as with OpenAI
        top_p=1.0 if asked.top_p is None else max(asked.top_p, 1e-9),
        seed=None if seed is None else seed % 2**63,
        stop=(given,) if isinstance(given, str) else tuple(given),
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logit_bias=_biases(asked.logit_bias or {}),
        logprobs=asked.logprobs,
    )


def _most(model: Language, asked: CompletionsRequest) -> int:
    if asked.max_tokens is None:
        return min(MAX_TOKENS, model.manifest.limits.new_tokens)
    return asked.max_tokens or 1


def _biases(given: dict[str, float]) -> tuple[tuple[int, float], ...]:
    for id in given:
        if not (id.isascii() and id.isdigit() and len(id) <= 9):
            raise invalid("logit_bias", f"{id[:32]!r} is not the id of a token")
    return tuple((int(id), bias) for id, bias in given.items())


def _check(asked: CompletionsRequest, n: int) -> None:
    if asked.suffix:
        raise invalid("suffix", "no model here fills a gap: leave suffix out", code="unsupported")
    if asked.max_tokens == 0 and not asked.echo:
        raise invalid("max_tokens", "0 makes sense with echo only: nothing would be sent")
    if asked.stream_options is not None and not asked.stream:
        raise invalid("stream_options", "is for streams: set stream to true")
    if asked.best_of is not None:
        if asked.best_of < n:
            raise invalid("best_of", f"must be at least n, which is {n}", limit=n)
        if asked.stream and asked.best_of > n:
            raise invalid("best_of", "a stream sends what it draws: best_of must be n", limit=n)


def order(house: House, asked: CompletionsRequest) -> Order:
    """The questions of a request.

    Raises:
        Problem, InvalidRequest: a wish that cannot be met, naming the member.
    """
    model = house.registry.named(asked.model, Language, "complete")
    n = asked.n or 1
    _check(asked, n)
    texts = [""] if asked.prompt is None else listed(asked.prompt, "prompt")
    most = house.settings.batch_texts
    if not 0 < len(texts) <= most:
        raise invalid(
            "prompt", f"has {len(texts)} texts; there must be 1 to {most}", limit=most, code="too_many_texts"
        )
    sampled = asked.temperature is None or asked.temperature > 0
    options = _options(model, asked, max(n, asked.best_of or 1) if sampled else 1)
    prompts = [_ask(house, model, text, asked, options) for text in texts]
    return Order(model, prompts, n, 1 if sampled else n, bool(asked.echo), asked.logprobs)


def _ask(
    house: House,
    model: Language,
    prompt: str | list[int],
    asked: CompletionsRequest,
    options: CompletionOptions,
) -> Asked:
    if isinstance(prompt, str):
        check_text("prompt", prompt, house.settings.text_chars)
    scores = None
    if asked.logprobs is None:
        answer = question(model, prompt, options)
    else:
        answer = question(model, prompt, options, shape=list[ToldChoice], encode=encode_told)
    if asked.echo and asked.logprobs is not None:
        scores = Question(
            task="complete",
            model=model.manifest.name,
            revision=model.manifest.revision,
            request=["prompt scores", prompt, asked.logprobs],
            shape=list[TokenLogprob],
            encode=_encode_scores,
            job=lambda: model.prompt_scores(prompt, top=asked.logprobs or 0),
        )
    return Asked(model, prompt, None if asked.max_tokens == 0 else answer, scores)


# -- answers ------------------------------------------------------------------------------------------------


def spelt(tokenizer: Tokenizer, id: int) -> str:
    """A token as OpenAI writes it: its text, its bytes where they are no whole character."""
    surface = tokenizer.surface(id)
    if not surface:
        return tokenizer.token_of(id)
    try:
        return surface.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in surface)


def logprobs_of(tokenizer: Tokenizer, found: Sequence[TokenLogprob], start: int) -> Logprobs:
    """OpenAI's object; `start` characters come before the first token's text."""
    body = Logprobs()
    for each in found:
        own = spelt(tokenizer, each.id)
        body.tokens.append(own)
        body.token_logprobs.append(round(each.logprob, 6))
        top = {spelt(tokenizer, id): round(value, 6) for id, value in each.top}
        body.top_logprobs.append({own: round(each.logprob, 6)} | top)
        body.text_offset.append(start + each.offset)
    return body


def best(found: list[ToldChoice], n: int) -> list[ToldChoice]:
    """The n choices with the highest log-probability a token, all of them in the order they were drawn."""
    if len(found) == n:
        return found
    return sorted(found, key=lambda each: -each.logprob / max(each.tokens, 1))[:n]


class Bill:
    """The usage of a request."""

    def __init__(self, asked: Order) -> None:
        self._prompts = asked.prompts
        self.completion = 0

    @property
    def prompt(self) -> int:
        return sum(each.tokens for each in self._prompts)

    def usage(self) -> CompletionsUsage:
        prompt = self.prompt
        return CompletionsUsage(prompt, self.completion, prompt + self.completion)


def choices_of(asked: Order, place: int, generated: list[ToldChoice], scores: list[TokenLogprob]) -> list[
    CompletionsChoice
]:  # fmt: skip
    """The choices of one prompt, the echo before them."""
    prompt, tokenizer = asked.prompts[place], asked.model.tokenizer
    head = prompt.text if asked.echo else ""
    choices = []
    for number, each in enumerate([each for each in best(generated, asked.n // asked.copies)] * asked.copies):
        told = None
        if asked.logprobs is not None:
            told = logprobs_of(tokenizer, scores, 0)
            rest = logprobs_of(tokenizer, each.logprobs, len(head))
            for field in told.__struct_fields__:
                getattr(told, field).extend(getattr(rest, field))
        choices.append(
            CompletionsChoice(place * asked.n + number, head + each.text, told, each.finish_reason)
        )
    return choices


async def whole(house: House, request: AnyRequest, asked: Order) -> tuple[list[CompletionsChoice], Bill]:
    """All choices of all prompts, decoded together."""
    questions = [q for each in asked.prompts for q in (each.scores, each.answer) if q is not None]
    values = iter(await decoded(house, request, questions))
    bill = Bill(asked)
    choices: list[CompletionsChoice] = []
    for place, each in enumerate(asked.prompts):
        scores: list[TokenLogprob] = []
        if each.scores is not None:
            scores = msgspec.json.decode(next(values), type=list[TokenLogprob])
        # with max_tokens 0 nothing is appended to the echo
        generated = [ToldChoice("", "length", 0.0)] * (asked.n // asked.copies)
        if each.answer is not None:
            generated = msgspec.json.decode(next(values), type=list[ToldChoice])
        bill.completion += asked.copies * sum(choice.tokens for choice in generated)
        choices += choices_of(asked, place, generated, scores)
    return choices, bill


async def streamed(house: House, request: AnyRequest, asked: Order, usage: bool) -> EventStream:
    """The same, as it is made."""
    trace = trace_of(request.scope)
    scoring = [each.scores for each in asked.prompts if each.scores is not None]
    scores = [
        logprobs_of(asked.model.tokenizer, msgspec.json.decode(value, type=list[TokenLogprob]), 0)
        for value in (await decoded(house, request, scoring) if scoring else [])
    ]
    relay = Relay()
    try:
        for place, each in enumerate(asked.prompts):
            if each.answer is not None:
                stream = await house.answers.stream(each.answer, fresh=is_fresh(request), trace=trace)
                relay.add(place, stream)
    except BaseException:  # refused together: what was admitted before this one goes, too
        relay.close()
        raise
    chunks = Chunks(
        _heading(asked, trace.request_id),
        heads=[each.text if asked.echo else "" for each in asked.prompts],
        scores=scores,
        n=asked.n,
        copies=asked.copies,
        told=None if asked.logprobs is None else partial(logprobs_of, asked.model.tokenizer),
        prompt_tokens=Bill(asked).prompt if usage else None,
    )
    return EventStream(chunks.frames(relay, trace), relay.close)


def _heading(asked: Order, request_id: str) -> CompletionsAnswer:
    return CompletionsAnswer(
        id=f"cmpl-{request_id}",
        created=int(time.time()),
        model=asked.model.manifest.name,
        choices=[],
        system_fingerprint=asked.model.manifest.revision,
    )


def routes(house: House) -> list[HTTPRouteHandler]:
    """POST /v1/completions."""

    @post(
        "/v1/completions",
        status_code=200,
        opt=described(
            "complete",
            "Continue texts",
            body=CompletionsRequest,
            answer=CompletionsAnswer,
            error=ErrorBody,
            also=["text/event-stream"],
            example={"model": "text-en", "prompt": "The capital of France is", "max_tokens": 5, "seed": 1},
        ),
    )
    @refusing
    async def completions(request: AnyRequest) -> ASGIApp:
        asked = await read_json(request, CompletionsRequest)
        todo = order(house, asked)
        trace = trace_of(request.scope)
        trace.revision = todo.model.manifest.revision
        if asked.stream:
            options = asked.stream_options
            return await streamed(house, request, todo, options is not None and options.include_usage)
        choices, bill = await whole(house, request, todo)
        body = _heading(todo, trace.request_id)
        body.choices, body.usage = choices, bill.usage()
        return Json(body)

    return [completions]
