"""What is admitted and not yet answered, and how long it will take at the rate of late."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

_WINDOW = 5.0  # busy seconds over which a rate is measured, or more where little was answered


class Size(NamedTuple):
    """What a job takes: tokens, texts, rows of a batch; and whose."""

    tokens: int
    texts: int
    rows: int = 0
    model: str = ""


class Backlog:
    """Sums over what is admitted, and the rate at which it goes away.

    Seconds count only while there is work: an idle hour says nothing about the rate. Rows that run side by
    side end together, so less than a batch of them says nothing either. `now` is in seconds and never goes
    back.

    Args:
        enough: rows that must have been answered before there is a rate.
    """

    __slots__ = (
        "_busy", "_drained", "_enough", "_evidence", "_from", "_log", "_since",
        "jobs", "rows", "texts", "tokens",
    )  # fmt: skip

    def __init__(self, enough: int = 0) -> None:
        self._enough = enough
        self.jobs = self.texts = self.tokens = self.rows = 0
        self._busy = 0.0  # seconds with work, before `_since`
        self._since = 0.0  # when the present work began
        self._log: deque[tuple[float, Size]] = deque()  # what was given back, and the busy seconds until then
        self._from = 0.0  # where the log begins
        self._drained = 0  # tokens in the log
        self._evidence = 0  # rows in the log

    def add(self, size: Size, now: float) -> None:
        if not self.jobs:
            self._since = now
        self._count(size, 1)

    def remove(self, size: Size, now: float, *, worked: bool) -> None:
        """`worked`: the job was answered, so that its tokens say something about the rate."""
        at = self._worked(now)
        if worked:
            self._log.append((at, size))
            self._drained += size.tokens
            self._evidence += size.rows
        self._count(size, -1)
        if not self.jobs:
            self._busy = at
        self._forget(at)

    def rate(self, now: float) -> float | None:
        """Tokens a second of late; None where too little was answered."""
        at = self._worked(now)
        self._forget(at)
        if not self._drained or at <= self._from or self._evidence < self._enough:
            return None
        return self._drained / (at - self._from)

    def _worked(self, now: float) -> float:
        return self._busy + (now - self._since if self.jobs else 0.0)

    def _count(self, size: Size, sign: int) -> None:
        self.jobs += sign
        self.texts += sign * size.texts
        self.tokens += sign * size.tokens
        self.rows += sign * size.rows

    def _forget(self, at: float) -> None:
        while self._log and self._log[0][0] < at - _WINDOW:
            end, size = self._log[0]
            if self._evidence - size.rows < self._enough:
                return  # a slow model's work is looked at for longer
            self._log.popleft()
            self._from = end
            self._drained -= size.tokens
            self._evidence -= size.rows
