"""The one bounded place. It counts texts and tokens, not requests: one request may be worth a thousand."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable
from time import monotonic

from service.errors import overloaded, unavailable
from service.metrics import Metrics

_WINDOW = 10.0  # seconds over which the drain rate is measured


class Permit:
    """Room for one job, given back once, when its rows are free again."""

    __slots__ = ("_admission", "texts", "tokens")

    def __init__(self, admission: Admission, tokens: int, texts: int) -> None:
        self._admission: Admission | None = admission
        self.tokens = tokens
        self.texts = texts

    def release(self) -> None:
        """Give the room back. A second call is a no-op."""
        if self._admission is not None:
            self._admission._released(self)
            self._admission = None


class Admission:
    """Lets work in while there is room for it, and says when to come back when there is none.

    A job larger than the whole queue is let in when the queue is empty: per-request limits bound it, and
    refusing it for ever would be a limit nobody wrote down.
    """

    def __init__(
        self, *, tokens: int, texts: int, metrics: Metrics, clock: Callable[[], float] = monotonic
    ) -> None:
        self._limits = (tokens, texts)
        self._metrics = metrics
        self._clock = clock
        self._released_at: deque[tuple[float, int]] = deque()
        self._busy_since = 0.0
        self._empty: asyncio.Event | None = None
        self.tokens = 0
        self.texts = 0
        self.jobs = 0
        self.draining = False
        metrics.queue_capacity.set(tokens)
        metrics.watch(metrics.backlog, lambda: self.jobs)
        metrics.watch(metrics.backlog_tokens, lambda: self.tokens)

    def admit(self, task: str, sizes: list[tuple[int, int]]) -> list[Permit]:
        """Room for all the jobs of one request, or for none of them.

        Args:
            task: for the metrics.
            sizes: tokens and texts of each job.

        Raises:
            Problem: 429 with Retry-After when there is no room, 503 while the process is leaving.
        """
        if self.draining:
            self._metrics.tasks[task].rejected["draining"].inc()
            raise unavailable("draining", "this process is shutting down; ask another", close=True)
        tokens = sum(size[0] for size in sizes)
        texts = sum(size[1] for size in sizes)
        if self.jobs and (self.tokens + tokens > self._limits[0] or self.texts + texts > self._limits[1]):
            self._metrics.tasks[task].rejected["queue_full"].inc()
            wait = self.retry_after(tokens)
            raise overloaded(
                f"the queue is full: {self.tokens} of {self._limits[0]} tokens (VOISIN_QUEUE_TOKENS) and "
                f"{self.texts} of {self._limits[1]} texts (VOISIN_QUEUE_TEXTS); retry in {wait} s",
                wait,
            )
        if not self.jobs:
            self._busy_since = self._clock()
        self.tokens += tokens
        self.texts += texts
        self.jobs += len(sizes)
        return [Permit(self, *size) for size in sizes]

    async def wait_empty(self, seconds: float) -> None:
        """Return when every job is answered, or after `seconds`."""
        self._empty = asyncio.Event()
        if self.jobs:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    def retry_after(self, tokens: int) -> int:
        """Whole seconds until `tokens` should fit, at the rate at which tokens were lately given back."""
        now = self._clock()
        self._forget(now)
        drained = sum(amount for _, amount in self._released_at)
        span = min(_WINDOW, now - self._busy_since)
        if not drained or span <= 0:
            return 1
        excess = max(self.tokens + tokens - self._limits[0], 1)
        return min(max(math.ceil(excess * span / drained), 1), 60)

    def _released(self, permit: Permit) -> None:
        now = self._clock()
        self.tokens -= permit.tokens
        self.texts -= permit.texts
        self.jobs -= 1
        if not self.jobs and self._empty is not None:
            self._empty.set()
        self._released_at.append((now, permit.tokens))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._released_at and self._released_at[0][0] < now - _WINDOW:
            self._released_at.popleft()
