"""How a refusal reads: `application/problem+json` (RFC 9457), or the shape of the route's own dialect."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
from litestar.types import HTTPScope
from msgspec import UNSET, UnsetType

from service.dialects import openai_error, retry_hint, shape_of
from service.errors import CLIENT_CLOSED_REQUEST, Problem
from service.responses import Answer
from service.trace import trace_of


class ProblemDetails(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of `application/problem+json`; `code`, `field`, `limit` and `did_you_mean` are ours."""

    status: int
    title: str
    detail: str
    code: str
    request_id: str | UnsetType = UNSET
    field: str | UnsetType = UNSET
    limit: float | UnsetType = UNSET
    did_you_mean: list[str] | UnsetType = UNSET
    error: str | UnsetType = UNSET  # LibreTranslate's member, beside ours on its routes


@cache
def _title(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase


def details(problem: Problem, request_id: str) -> ProblemDetails:
    body = ProblemDetails(
        status=problem.status,
        title=_title(problem.status),
        detail=problem.detail,
        code=problem.code,
        request_id=request_id,
    )
    if problem.field is not None:
        body.field = problem.field
    if problem.limit is not None:
        body.limit = int(problem.limit) if float(problem.limit).is_integer() else problem.limit
    if problem.did_you_mean is not None:
        body.did_you_mean = problem.did_you_mean
    return body


_LIBRETRANSLATE = frozenset({"/translate", "/detect", "/languages", "/frontend/settings"})


def render(problem: Problem, path: str, request_id: str, method: str = "GET") -> Answer:
    """The response of a problem, in the dialect that the path speaks."""
    media_type = "application/problem+json"
    headers = problem.headers
    body: Any = details(problem, request_id)
    if path.rstrip("/") in _LIBRETRANSLATE:
        body.error = problem.detail
    elif (shape := shape_of(path, method)) is not None:
        media_type = "application/json"
        body = shape(problem)
        headers = headers | (retry_hint(problem) if shape is openai_error else {})
    return Answer(msgspec.json.encode(body), status=problem.status, media_type=media_type, headers=headers)


def refusal(problem: Problem, scope: HTTPScope) -> Answer:
    """The answer that says so, and the mark that the request leaves in the metrics."""
    trace = trace_of(scope)
    trace.outcome = problem.outcome
    return render(problem, scope["path"], trace.request_id, scope["method"])
