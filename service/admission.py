"""The one bounded place. It counts texts and tokens, not requests: one request may be worth a thousand.

Tokens and texts bound the memory. What a client feels is time, so the work that waits for one model is
bounded in seconds as well, at the rate at which that model lately answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

from service.backlog import Backlog, Size
from service.errors import Problem, overloaded, unavailable
from service.metrics import Metrics

_BLIND = 4  # batches that may wait for a model whose speed is not known


class Permit:
    """Room for one job, given back once, when its rows are free again."""

    __slots__ = ("_admission", "size")

    def __init__(self, admission: Admission, size: Size) -> None:
        self._admission: Admission | None = admission
        self.size = size

    def release(self, *, worked: bool = True) -> None:
        """Give the room back. A second call is a no-op.

        Args:
            worked: the job was answered; what was dropped says nothing about the speed of the model.
        """
        if self._admission is not None:
            self._admission._released(self.size, worked=worked)
            self._admission = None


class Admission:
    """Lets work in while there is room for it, and says when to come back when there is none.

    A job larger than the whole queue is let in when the queue is empty: per-request limits bound it, and
    refusing it for ever would be a limit nobody wrote down. What still fits into the running batch of a model
    does not wait, and is not refused for the time that the others take.
    """

    def __init__(
        self,
        *,
        tokens: int,
        texts: int,
        metrics: Metrics,
        seconds: float = math.inf,
        rows: int = 2**31,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """
        Args:
            tokens, texts: most of them at once, of all models together.
            seconds: most work waiting for one model.
            rows: of a model's batch.
        """
        self._limits = (tokens, texts)
        self._seconds = seconds
        self._rows = rows
        self._metrics = metrics
        self._clock = clock
        self._all = Backlog()
        self._models: defaultdict[str, Backlog] = defaultdict(lambda: Backlog(rows))
        self._empty: asyncio.Event | None = None
        self.draining = False
        metrics.queue_capacity.set(tokens)
        metrics.watch(metrics.backlog, lambda: self._all.jobs)
        metrics.watch(metrics.backlog_tokens, lambda: self._all.tokens)

    @property
    def jobs(self) -> int:
        """Jobs admitted and not yet answered."""
        return self._all.jobs

    @property
    def tokens(self) -> int:
        return self._all.tokens

    @property
    def texts(self) -> int:
        return self._all.texts

    def check(self, task: str, models: Iterable[str]) -> None:
        """Refuse what cannot be let in however small it is: before the work of finding out how large it is.

        Raises:
            Problem: 429 with Retry-After where a model's queue is full, 503 while the process is leaving.
        """
        if self.draining:
            self._metrics.tasks[task].rejected["draining"].inc()
            raise unavailable("draining", "this process is shutting down; ask another", close=True)
        for model in models:
            self._check_wait(task, model)
        if self.jobs and (self.tokens >= self._limits[0] or self.texts >= self._limits[1]):
            raise self._full(task, 1)

    def _check_wait(self, task: str, model: str) -> None:
        backlog = self._models[model]
        if backlog.rows < self._rows or not backlog.jobs:
            return
        rate = backlog.rate(self._clock())
        if rate is None:
            if backlog.rows >= _BLIND * self._rows:
                detail = f"{backlog.rows} rows wait for {model}, whose speed is not known yet; retry in 1 s"
                raise self._refused(task, detail, 1)
            return
        seconds = backlog.tokens / rate
        if seconds > self._seconds:
            wait = min(max(math.ceil(seconds - self._seconds), 1), 60)
            detail = (
                f"{seconds:.1f} s of work wait for {model}, and at most {self._seconds:g} s may "
                f"(VOISIN_QUEUE_SECONDS); retry in {wait} s"
            )
            raise self._refused(task, detail, wait)

    def admit(self, task: str, sizes: Sequence[Size]) -> list[Permit]:
        """Room for all the jobs of one request, or for none of them.

        Args:
            task: for the metrics.
            sizes: of each job.

        Raises:
            Problem: 429 with Retry-After when there is no room, 503 while the process is leaving.
        """
        self.check(task, dict.fromkeys(size.model for size in sizes))
        tokens = sum(size.tokens for size in sizes)
        texts = sum(size.texts for size in sizes)
        if self.jobs and (self.tokens + tokens > self._limits[0] or self.texts + texts > self._limits[1]):
            raise self._full(task, tokens)
        now = self._clock()
        for size in sizes:
            self._all.add(size, now)
            self._models[size.model].add(size, now)
        return [Permit(self, size) for size in sizes]

    def _full(self, task: str, tokens: int) -> Problem:
        wait = self.retry_after(tokens)
        return self._refused(
            task,
            f"the queue is full: {self.tokens} of {self._limits[0]} tokens (VOISIN_QUEUE_TOKENS) and "
            f"{self.texts} of {self._limits[1]} texts (VOISIN_QUEUE_TEXTS); retry in {wait} s",
            wait,
        )

    def _refused(self, task: str, detail: str, wait: int) -> Problem:
        self._metrics.tasks[task].rejected["queue_full"].inc()
        return overloaded(detail, wait)

    async def wait_empty(self, seconds: float) -> None:
        """Return when every job is answered, or after `seconds`."""
        self._empty = asyncio.Event()
        if self.jobs:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    def retry_after(self, tokens: int) -> int:
        """Whole seconds until `tokens` should fit, at the rate at which tokens were lately given back."""
        rate = self._all.rate(self._clock())
        if not rate:
            return 1
        excess = max(self.tokens + tokens - self._limits[0], 1)
        return min(max(math.ceil(excess / rate), 1), 60)

    def _released(self, size: Size, *, worked: bool) -> None:
        now = self._clock()
        self._all.remove(size, now, worked=worked)
        self._models[size.model].remove(size, now, worked=worked)
        if not self.jobs and self._empty is not None:
            self._empty.set()
