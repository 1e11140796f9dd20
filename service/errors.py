"""Every refusal is one exception: `Problem`. Whatever else is raised is translated into one here."""

from __future__ import annotations

import re

import msgspec
from litestar.exceptions import HTTPException

from bundle.errors import InvalidRequest, UnknownWord

CLIENT_CLOSED_REQUEST = 499  # nginx's number for a client that did not wait; it is logged, never received


class Problem(Exception):
    """A refusal with everything the caller may be told.

    `code` is for programs, `detail` for people; `field` names the member of the request at fault and `limit`
    the bound it broke. `outcome` overrides the metrics' reading of the status.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        limit: float | None = None,
        did_you_mean: list[str] | None = None,
        headers: dict[str, str] | None = None,
        outcome: str | None = None,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.limit = limit
        self.did_you_mean = did_you_mean
        self.headers = headers or {}
        self.outcome = outcome

    def __reduce__(self) -> tuple[type[Problem], tuple[int, str, str], dict[str, object]]:
        return Problem, (self.status, self.code, self.detail), self.__dict__


def invalid(
    field: str | None, detail: str, *, limit: float | None = None, code: str = "invalid_value"
) -> Problem:
    return Problem(400, code, detail, field=field, limit=limit)


def overloaded(detail: str, retry_after: int) -> Problem:
    return Problem(429, "overloaded", detail, headers={"retry-after": str(retry_after)}, outcome="rejected")


def unavailable(code: str, detail: str, *, retry_after: int = 1, close: bool = False) -> Problem:
    headers = {"retry-after": str(retry_after)} | ({"connection": "close"} if close else {})
    return Problem(503, code, detail, headers=headers, outcome="rejected" if close else "error")


def deadline_exceeded(seconds: float) -> Problem:
    detail = f"not answered within {seconds:g} s (VOISIN_DEADLINE_SECONDS)"
    return Problem(504, "deadline_exceeded", detail, limit=seconds, outcome="timeout")


class ClientGone(Problem):
    """The client closed the connection before its answer was ready."""

    def __init__(self) -> None:
        super().__init__(CLIENT_CLOSED_REQUEST, "client_gone", "the client left", outcome="cancelled")


# msgspec says where and what in one sentence, e.g. "Expected `int` <= 100 - at `$.topn`"
_AT = re.compile(r" - at `\$(?:\.(\w+))?(?:\[(\d+|\.\.\.)\])?.*`$")
_BOUND = re.compile(r"(?:<=|>=|<|>) (-?\d+(?:\.\d+)?)$")
_NAMED = re.compile(r"^Object (?:contains unknown|missing required) field `(.*?)`(?: - at |$)", re.DOTALL)


def from_validation(error: msgspec.ValidationError) -> Problem:
    """The problem of a request that reads well but means nothing; field and limit are in msgspec's text."""
    text = str(error)
    if named := _NAMED.match(text):
        field = named[1]
        if "missing" in text:
            return invalid(field, f"{field} is required", code="missing_field")
        return invalid(field[:64], f"{field[:64]} is not a field of this request", code="unknown_field")
    at = _AT.search(text)
    what = text[: at.start()] if at else text
    field = at[1] if at and at[1] else None
    if field and at and at[2] and at[2] != "...":
        field = f"{field}[{at[2]}]"
    bound = _BOUND.search(what)
    return invalid(field, what.replace("`", ""), limit=float(bound[1]) if bound else None)


def from_exception(error: Exception) -> Problem:
    """The problem that stands for any exception; one we did not foresee is 500 and says nothing of itself."""
    match error:
        case Problem():
            return error
        case UnknownWord():
            return Problem(
                404, "unknown_word", f"the word {error.word!r} is not in the vocabulary",
                field="word", did_you_mean=list(error.did_you_mean),
            )  # fmt: skip
        case InvalidRequest():
            return invalid(error.field, error.message, limit=error.limit)
        case msgspec.ValidationError():
            return from_validation(error)
        case HTTPException():
            return _from_framework(error)
        case _:
            return Problem(500, "internal", "an error on our side; the log has it under this request id")


_FRAMEWORK = {
    404: ("not_found", "there is no such route; / and /schema list what there is"),
    405: ("method_not_allowed", "this route does not take that method; Allow names those it takes"),
    413: ("body_too_large", "the request body is longer than VOISIN_BODY_BYTES"),
}


def _from_framework(error: HTTPException) -> Problem:
    if "disconnect" in error.detail:
        return ClientGone()
    status = 400 if error.status_code == 422 else error.status_code
    code, detail = _FRAMEWORK.get(status, ("bad_request" if status < 500 else "internal", error.detail))
    return Problem(status, code, detail, headers=dict(error.headers or {}))
