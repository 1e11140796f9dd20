"""The composition root: routes, refusals, and the layer that watches them."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from service import openapi
from service.direct import Direct
from service.errors import from_exception
from service.guard import make_guard
from service.house import House
from service.logs import RequestLog
from service.observe import Observe
from service.parsing import AnyRequest, Received
from service.problems import refusal
from service.responses import Answer
from service.routes import (
    complete,
    embeddings,
    hugging,
    kserve,
    meta,
    models,
    openai,
    page,
    probes,
    similar,
    tei,
    translate,
    words,
)
from service.trace import trace_of
from service.tracing import open_tracing

logger = logging.getLogger("voisin")


OURS = (similar, words, complete, translate)

BUSIEST = frozenset({"/similar", "/translate", "/complete", "/v1/completions"})


def handlers(house: House) -> list[HTTPRouteHandler]:
    """Every route of the service."""
    tasks = [
        handler
        for family in (*OURS, openai, embeddings, models, kserve, tei, hugging, meta, probes)
        for handler in family.routes(house)
    ]
    pages = page.routes(lambda: openapi.document([*tasks, *pages]))
    return [*tasks, *pages]


def refuse(request: AnyRequest, error: Exception) -> Answer:
    """Any exception as the problem it stands for."""
    problem = from_exception(error)
    if problem.status == 500:
        request_id = trace_of(request.scope).request_id
        logger.error("unforeseen", exc_info=error, extra={"data": {"request_id": request_id}})
    return refusal(problem, request.scope)


def _raised(request: AnyRequest, error: Exception) -> Any:
    """The same, for the framework."""
    return _Ready(refuse(request, error))


class _Ready:
    """An answer in the clothes that the framework wants of an exception handler."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def to_asgi_response(self, **_: Any) -> Answer:
        return self._answer


def _cors(origins: str) -> CORSConfig | None:
    """Without credentials: a key is sent in a header, so no page can borrow somebody's cookies."""
    allowed = [origin.strip() for origin in origins.split(",") if origin.strip()]
    if not allowed:
        return None
    return CORSConfig(
        allow_origins=allowed,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Cache-Control", "Content-Type", "X-API-Key", "X-Request-Id"],
        expose_headers=["Retry-After", "Server-Timing", "X-Cache", "X-Model-Revision", "X-Request-Id"],
    )


def build_app(house: House) -> ASGIApp:
    """The ASGI application over a house."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with house.open():
            yield
        if tracing is not None:
            tracing.close()

    tracing = open_tracing(os.environ)
    routes = handlers(house)
    app = Litestar(
        route_handlers=routes,
        exception_handlers={Exception: _raised},
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
        request_class=Received,
        request_max_body_size=house.settings.body_bytes,
        guards=[] if house.keys is None else [make_guard(house.keys, house.metrics)],
        cors_config=_cors(house.settings.cors_origins),
    )
    tasks = {path: route.opt.get("task", "other") for route in routes for path in route.paths}
    log = RequestLog(every=house.settings.log_level in ("debug", "info"))
    # pages of other origins are answered and marked by a layer of the framework that stands before handlers
    door = app if house.settings.cors_origins else Direct(app, BUSIEST, refuse)
    return Observe(
        door, house.metrics, log, tasks, client_seconds=house.settings.client_seconds, tracing=tracing
    )
