"""What one request leaves behind: the headers of its answer, its line in the log, its mark in the metrics."""

from __future__ import annotations

import itertools
import os
import re
from time import perf_counter

from litestar.types import Scope

_WELL_FORMED = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_boot = os.urandom(4).hex()
_count = itertools.count(1)


class Trace:
    """Filled in by whoever learns something on the way; read once, by `Observe`."""

    __slots__ = ("cache", "outcome", "queue", "request_id", "revision", "run", "start")

    def __init__(self, scope: Scope) -> None:
        self.start = perf_counter()
        self.request_id = _request_id(scope)
        self.revision = "none"
        self.cache = "bypass"
        self.outcome: str | None = None
        self.queue = 0.0  # seconds waited for a row
        self.run = 0.0  # seconds in the model

    def elapsed(self) -> float:
        return perf_counter() - self.start

    def server_timing(self) -> str:
        """https://www.w3.org/TR/server-timing/, milliseconds."""
        parts = [f"total;dur={self.elapsed() * 1e3:.3f}"]
        if self.run:
            parts.append(f"queue;dur={self.queue * 1e3:.3f}, model;dur={self.run * 1e3:.3f}")
        return ", ".join(parts)


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
