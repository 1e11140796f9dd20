"""How a refusal reads: `application/problem+json` (RFC 9457), or the shape of the route's own dialect."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from service.errors import CLIENT_CLOSED_REQUEST, Problem
from service.responses import Answer


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


_LIBRETRANSLATE = frozenset({"/translate", "/detect", "/languages"})


def render(problem: Problem, path: str, request_id: str) -> Answer:
    """The response of a problem, in the dialect that the path speaks."""
    media_type = "application/problem+json"
    body: Any = details(problem, request_id)
    if path.rstrip("/") in _LIBRETRANSLATE:
        body.error = problem.detail
    elif path.startswith("/v1/"):
        media_type = "application/json"
        kind = "invalid_request_error" if problem.status < 500 and problem.status != 429 else "server_error"
        if problem.status == 429:
            kind = "rate_limit_error"
        body = {
            "error": {"message": problem.detail, "type": kind, "param": problem.field, "code": problem.code}
        }
    return Answer(
        msgspec.json.encode(body), status=problem.status, media_type=media_type, headers=problem.headers
    )
