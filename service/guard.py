"""The door: which routes want an API key, and where a request may carry it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.handlers import BaseRouteHandler

from service.keys import Keys, Pass
from service.metrics import Metrics
from service.parsing import AnyRequest
from service.trace import trace_of

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]

# What tells nothing of models or texts, and what a browser loads before anybody can type a key.
PUBLIC = frozenset(
    {"/", "/favicon.ico", "/frontend/settings", "/languages", "/ping", "/schema", "/schema/openapi.json"}
)
_METRICS = "/metrics"


class _Carrier(msgspec.Struct):
    """The one member of a JSON body that is of interest at the door."""

    api_key: str | None = None


def scope_of(handler: BaseRouteHandler) -> str | None:
    """The scope a route needs; None where it is open to everybody, as probes always are."""
    if _METRICS in handler.paths:
        return "metrics"
    reads = "POST" not in getattr(handler, "http_methods", ())  # a POST to / is a question to a model
    if handler.opt.get("task") == "probe" or (reads and PUBLIC & set(handler.paths)):
        return None
    return "use"


def make_guard(keys: Keys, metrics: Metrics) -> Guard:
    """What the framework calls before each handler. What it lets in is given back by `Observe`."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        scope = scope_of(handler)
        if scope is None:
            return
        request: Any = connection  # over HTTP it always is one
        presented = _in_headers(request) or await _in_dialect(request, handler)
        trace = trace_of(request.scope)
        try:
            entered: Pass = keys.admit(presented, scope)
        except Exception as problem:
            if getattr(problem, "status", 0) == 429:
                metrics.tasks[handler.opt["task"]].rejected["rate_limited"].inc()
            raise
        trace.entered = entered

    return guard


def _in_headers(request: AnyRequest) -> str:
    """`Authorization: Bearer`, then `X-API-Key`; empty where there is neither."""
    named = ""
    for name, value in request.scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].strip(), "latin-1")
        if name == b"x-api-key":
            named = str(value.strip(), "latin-1")
    return named


async def _in_dialect(request: AnyRequest, handler: BaseRouteHandler) -> str:
    """The `api_key` of a dialect whose requests have one: in the query, the form or the JSON body.

    A body that cannot be read has no key; what is wrong with it is told to those who have one.
    """
    shapes = [handler.opt.get("body"), handler.opt.get("query")]
    if not any("api_key" in getattr(shape, "__struct_fields__", ()) for shape in shapes):
        return ""
    query = request.scope["query_string"]
    if b"api_key=" in query:
        return _first(query)
    if handler.opt.get("body") is None:
        return ""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            value = (await request.form()).get("api_key")
            return value if isinstance(value, str) else ""
        body = await request.body()
        if kind == "application/x-www-form-urlencoded":
            return _first(body)
        return msgspec.json.decode(body, type=_Carrier).api_key or ""
    except RequestEntityTooLarge:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, HTTPException):
        return ""


def _first(pairs: bytes) -> str:
    return parse_qs(pairs.decode("latin-1"), max_num_fields=256).get("api_key", [""])[0]
