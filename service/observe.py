"""The outermost layer: every request passes here, also those that no route takes."""

from __future__ import annotations

import logging
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service.connections import WHOLE, hurried
from service.errors import from_exception
from service.logs import RequestLog
from service.metrics import Metrics
from service.problems import render
from service.trace import Trace
from service.tracing import Tracing

logger = logging.getLogger("voisin")


def _outcome(status: int, task: str) -> str:
    if task == "probe" and status == 503:
        return "rejected"  # the probe was answered, only not with yes
    if status < 400:
        return "ok"
    if status < 500:
        return "client_error"
    return "error"


class Observe:
    """Gives each request a trace, each answer its headers, each pair a metric and a line in the log.

    It stands outside the framework because the framework's own middleware never sees a 404 or a 405.
    `tasks` maps a route's path to its task; every other path is `other`, so labels stay bounded.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        log: RequestLog,
        tasks: dict[str, str],
        *,
        client_seconds: float,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics.tasks
        self._log = log
        self._tasks = tasks
        self._seconds = client_seconds
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        trace = Trace(scope)
        scope["trace"] = trace  # type: ignore[typeddict-unknown-key]
        path, method = scope["path"], scope["method"]
        task = self._tasks.get(path.rstrip("/") or "/", "other")
        series = self._metrics[task]
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", trace.request_id.encode()),
                    (b"x-model-revision", trace.revision.encode()),
                    (b"x-cache", trace.cache.encode()),
                    (b"server-timing", trace.server_timing().encode()),
                ]
            await send(message)

        series.under_way += 1
        try:
            in_time = method == "GET" or WHOLE in scope
            await self._app(scope, receive if in_time else hurried(receive, self._seconds), answer)
        except Exception as error:
            logger.exception("unforeseen", extra={"data": {"request_id": trace.request_id}})
            trace.outcome = "error"
            if not status:
                await render(from_exception(error), path, trace.request_id, method)(scope, receive, answer)
        finally:
            series.under_way -= 1
            task = trace.task or task
            series = self._metrics[task]
            if trace.entered is not None:
                trace.entered.release()
            elapsed = trace.elapsed()
            outcome = trace.outcome or _outcome(status, task)
            series.duration.observe(elapsed)
            series.outcomes[outcome].inc()
            if status == 413:
                series.rejected["too_large"].inc()
            followed = None
            if self._tracing is not None and task != "probe":
                route = path.rstrip("/") or "/"
                known = route if route in self._tasks else None
                followed = self._tracing.record(scope, trace, known, status, outcome)
            # probes that went well come every few seconds for ever: nobody wants to read that
            if (task != "probe" or outcome != "ok") and self._log.wants(outcome):
                line: dict[str, Any] = {"request_id": trace.request_id, "task": task, "method": method}
                line |= {"seconds": round(elapsed, 6), "cache": trace.cache, "revision": trace.revision}
                if followed is not None:
                    line["trace_id"] = followed
                if trace.entered is not None:
                    line["key"] = trace.entered.name  # its name, never itself
                self._log.write(status, outcome, line)
