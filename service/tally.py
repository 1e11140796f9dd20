"""What lanes count: into the metrics of this process, or into a journal that another one reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from service.metrics import Metrics

Stage = Literal["queued", "running"]
Entry = tuple[str, tuple[str | float, ...]]
"""A method of a tally and its arguments."""


class Tally(Protocol):
    """What a lane tells of its errands, by task. Tasks without series count nowhere."""

    def queued(self, task: str) -> None:
        """An errand waits for its lane."""

    def unqueued(self, task: str) -> None:
        """It waits no more, whatever becomes of it."""

    def began(self, task: str, waited: float, tokens: int) -> None:
        """It is in the batch after so many seconds, with so many tokens to be read."""

    def cancelled(self, task: str, stage: Stage) -> None:
        """Whoever asked has left."""

    def late(self, task: str) -> None:
        """Its deadline has passed."""

    def stepped(self, task: str, rows: int) -> None:
        """A step of so many rows gave something to it."""

    def worked(self, seconds: float) -> None:
        """A process of its own has spent so much processor time since it last said so."""


class Counted:
    """A tally that counts at once."""

    def __init__(self, metrics: Metrics) -> None:
        self._decoding = metrics.decoding
        self._tasks = metrics.tasks
        self._worked = metrics.worker_processor

    def queued(self, task: str) -> None:
        if task in self._decoding:
            self._decoding[task].queue_depth.inc()

    def unqueued(self, task: str) -> None:
        if task in self._decoding:
            self._decoding[task].queue_depth.dec()

    def began(self, task: str, waited: float, tokens: int) -> None:
        if task in self._decoding:
            self._decoding[task].queue_wait.observe(waited)
            self._decoding[task].tokens_in.inc(tokens)

    def cancelled(self, task: str, stage: Stage) -> None:
        if task in self._decoding:
            self._decoding[task].cancelled[stage].inc()

    def late(self, task: str) -> None:
        if task in self._decoding:
            self._tasks[task].rejected["deadline"].inc()

    def stepped(self, task: str, rows: int) -> None:
        if task in self._decoding:
            self._decoding[task].batch_size.observe(rows)

    def worked(self, seconds: float) -> None:
        self._worked.inc(seconds)

    def read(self, entries: Iterable[Entry]) -> None:
        """Count what a journal holds."""
        for method, arguments in entries:
            getattr(self, method)(*arguments)


class Journal:
    """A tally that is written down."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def queued(self, task: str) -> None:
        self._entries.append(("queued", (task,)))

    def unqueued(self, task: str) -> None:
        self._entries.append(("unqueued", (task,)))

    def began(self, task: str, waited: float, tokens: int) -> None:
        self._entries.append(("began", (task, waited, tokens)))

    def cancelled(self, task: str, stage: Stage) -> None:
        self._entries.append(("cancelled", (task, stage)))

    def late(self, task: str) -> None:
        self._entries.append(("late", (task,)))

    def stepped(self, task: str, rows: int) -> None:
        self._entries.append(("stepped", (task, rows)))

    def worked(self, seconds: float) -> None:
        self._entries.append(("worked", (seconds,)))

    def taken(self) -> list[Entry]:
        """All of it, which is then forgotten."""
        entries, self._entries = self._entries, []
        return entries
