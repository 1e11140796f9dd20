"""The shape that a refusal has in the dialect of a route, where it is not `application/problem+json`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service.errors import Problem

Shape = Callable[[Problem], dict[str, Any]]


def openai_error(problem: Problem) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = "rate_limit_error" if problem.status == 429 else "invalid_request_error"
    if problem.status >= 500:
        kind = "server_error"
    return {"error": {"message": problem.detail, "type": kind, "param": problem.field, "code": problem.code}}


def kserve_error(problem: Problem) -> dict[str, Any]:
    """The error of the Open Inference Protocol; the member at fault is named in the text."""
    named = problem.field is not None and problem.field not in problem.detail
    return {"error": f"{problem.field}: {problem.detail}" if named else problem.detail}


def tei_error(problem: Problem) -> dict[str, Any]:
    """The error of Text Embeddings Inference, with its five types."""
    kind = {429: "Overloaded", 503: "Unhealthy", 504: "Overloaded"}.get(problem.status)
    if kind is None:
        kind = "Backend" if problem.status >= 500 else "Validation"
    named = problem.field is not None and problem.field not in problem.detail
    text = f"{problem.field}: {problem.detail}" if named else problem.detail
    return {"error": text, "error_type": kind}


def generation_error(problem: Problem) -> dict[str, Any]:
    """The error of text-generation-inference, whose types InferenceClient turns into its exceptions."""
    kind = "overloaded" if problem.status in (429, 503) else "validation"
    if problem.status >= 500 and problem.status != 503:
        kind = "generation"
    return {"error": tei_error(problem)["error"], "error_type": kind}


_TEI = frozenset({"/embed", "/similarity"})


def shape_of(path: str, method: str = "GET") -> Shape | None:
    """How the route at `path` writes its errors; None for routes of our own, and LibreTranslate's."""
    path = path.rstrip("/") or "/"
    if path == "/v1" or path.startswith("/v1/"):
        return openai_error
    if path == "/v2" or path.startswith("/v2/"):
        return kserve_error
    if path in _TEI:
        return tei_error
    if path.startswith("/models/") or (path == "/" and method == "POST"):
        return generation_error
    return None


def retry_hint(problem: Problem) -> dict[str, str]:
    """`x-should-retry`, which OpenAI's clients obey: only what may go better the next time is asked again.

    A deadline that passed is not: the same question would take as long, and make a full house fuller.
    """
    if problem.status in (429, 503):
        return {"x-should-retry": "true"}
    if problem.status >= 400:
        return {"x-should-retry": "false"}
    return {}
