"""What one request leaves behind: the headers of its answer, its line in the log, its mark in the metrics."""

from __future__ import annotations

import itertools
import os
import re
from time import perf_counter

from litestar.types import Scope

from service.keys import Pass

_WELL_FORMED = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_boot = os.urandom(4).hex()
_count = itertools.count(1)


class Trace:
    """Filled in by whoever learns something on the way; read once, by `Observe`."""

    __slots__ = (
        "cache",
        "entered",
        "outcome",
        "queue",
        "request_id",
        "revision",
        "run",
        "start",
        "submitted",
        "task",
    )

    def __init__(self, scope: Scope) -> None:
        self.start = perf_counter()
        self.request_id = _request_id(scope)
        self.revision = "none"
        self.cache = "bypass"
        self.outcome: str | None = None
        self.task: str | None = None  # where the model decides it, and not the route
        self.entered: Pass | None = None  # the API key it came in with
        self.submitted = self.start  # when the work that `queue` and `run` are about was admitted
        self.queue = 0.0  # seconds waited for a row
        self.run = 0.0  # seconds in the model

    def elapsed(self) -> float:
        return perf_counter() - self.start

    def server_timing(self) -> str:
        """https://www.w3.org/TR/server-timing/, milliseconds; `total` is the sum of the others."""
        total, queue, run = self.parts()
        if not run:
            return f"total;dur={total * 1e3:.3f}"
        # rounded before they are added, so that the sum is what the reader adds up
        other = round((total - queue - run) * 1e3, 3)
        queue, run = round(queue * 1e3, 3), round(run * 1e3, 3)
        total = other + queue + run
        return f"total;dur={total:.3f}, queue;dur={queue:.3f}, model;dur={run:.3f}, other;dur={other:.3f}"

    def parts(self) -> tuple[float, float, float]:
        """Seconds until now, of those in the queue, of those in the model.

        A request that joined another's flight found the model at work already: only its own time counts.
        """
        total = self.elapsed()
        run = min(self.run, total)
        return total, min(self.queue, total - run), run


def _request_id(scope: Scope) -> str:
    """The caller's X-Request-Id where it is short and plain (it goes into the log), else one of ours."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _WELL_FORMED.fullmatch(value):
            return bytes(value).decode("latin-1")
    return f"{_boot}-{next(_count):x}"


def trace_of(scope: Scope) -> Trace:
    """The trace `Observe` gave to this request."""
    trace: Trace = scope["trace"]  # type: ignore[typeddict-item]
    return trace
