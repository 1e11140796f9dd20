"""One file a family of routes; each offers `routes(house)`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, TypeVar

import msgspec
from litestar.types import ASGIApp

from service.answers import Question
from service.errors import Problem
from service.house import House
from service.parsing import AnyRequest, is_fresh
from service.presence import while_connected
from service.problems import refusal
from service.responses import Answer
from service.schemas import ModelName
from service.trace import trace_of


def described(
    task: str,
    summary: str,
    *,
    query: type[msgspec.Struct] | None = None,
    body: type[msgspec.Struct] | None = None,
    answer: Any = None,
    form: bool = False,
    media: str = "application/json",
    error: Any = None,
    also: Sequence[str] = (),
    takes: Sequence[str] = (),
    example: Any = None,
) -> dict[str, Any]:
    """What a handler says about itself, as its `opt`: read by the metrics, by /schema and by docs/api.md.

    Args:
        task: one of `service.metrics.TASKS`.
        form: whether the body may come as a form, too.
        error: the shape of a refusal, where it is not `ProblemDetails`.
        also: further media types of the answer, e.g. that of a stream.
        takes: further media types of the body, whose bytes the document does not describe.
        example: a body that is answered.
    """
    return {
        "task": task,
        "summary": summary,
        "query": query,
        "body": body,
        "answer": answer,
        "form": form,
        "media": media,
        "error": error,
        "also": also,
        "takes": takes,
        "example": example,
    }


A = TypeVar("A", bound=ASGIApp)


def refusing(handler: Callable[[AnyRequest], Coroutine[Any, Any, A]]) -> Callable[
    [AnyRequest], Coroutine[Any, Any, A | Answer]
]:  # fmt: skip
    """A handler whose refusals are answers, not exceptions: on their way up through the framework they would
    cost as much again, and a full house refuses most of what it is asked.
    """

    @wraps(handler)
    async def answer(request: AnyRequest) -> A | Answer:
        try:
            return await handler(request)
        except Problem as problem:
            return refusal(problem, request.scope)

    return answer


async def decoded(house: House, request: AnyRequest, questions: Sequence[Question]) -> list[bytes]:
    """The answers of decoders, for as long as the client waits for them."""
    trace, fresh = trace_of(request.scope), is_fresh(request)
    found = house.answers.at_once(questions, fresh=fresh, trace=trace)
    if found is not None:
        return found
    house.answers.check(questions, fresh=fresh)
    return await while_connected(request.receive, house.answers.get(questions, fresh=fresh, trace=trace))


def encoder(convert: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    """From a bundle's result to the bytes that are cached."""

    def encode(result: Any) -> bytes:
        return msgspec.json.encode(convert(result))

    return encode


def name_of(manifest: Any) -> ModelName:
    """The `model` member of an answer."""
    return ModelName(manifest.name, manifest.revision)
