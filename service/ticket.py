"""One job on its way to its answer, as the event loop and whoever steps its lane see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from bundle.decoding import Event, Request
from service.admission import Permit
from service.errors import Problem

PIECES_EVERY = 0.04
"""Seconds between two deliveries of pieces, and two events, of one stream; the first comes at once, and so
does the end."""
MORE = object()  # the end of a delivery that is not the last; a result may be anything, None too


class Job(Protocol):
    """What bundle's jobs look like from here: requests for a decoder, fed with its events until done.

    Feeding may add requests.
    """

    @property
    def requests(self) -> list[Request]: ...

    @property
    def cost(self) -> int: ...

    @property
    def done(self) -> bool: ...

    def feed(self, index: int, event: Event) -> list[Any]: ...

    def result(self) -> Any: ...


class Errand:
    """A job on its way through a lane, as whoever steps the lane sees it.

    Times are `time.monotonic`, which is also the clock of the event loop, and one clock for all processes of
    a machine.
    """

    __slots__ = (
        "allowed", "asked", "deadline", "finished", "first", "gone", "held", "job", "model", "started",
        "streams", "submitted", "task", "tell_at", "tokens_in", "tokens_out",
    )  # fmt: skip

    def __init__(
        self, task: str, model: str, job: Job, *, submitted: float, deadline: float, streams: bool
    ) -> None:
        """
        Args:
            submitted, deadline: monotonic seconds; at the deadline the lane gives up.
            streams: whether pieces are wanted before the end.
        """
        self.task = task
        self.model = model
        self.job = job
        self.submitted = submitted
        self.deadline = deadline
        self.allowed = deadline - submitted
        self.streams = streams
        self.gone = False
        self.asked = 0  # of the job's requests, what the decoder has
        self.started: float | None = None
        self.first: float | None = None
        self.finished: float | None = None
        self.tokens_in = sum(len(request.prompt.ids) + len(request.prompt.source) for request in job.requests)
        self.tokens_out = 0
        self.held: list[Any] = []  # pieces that have not been handed out yet
        self.tell_at = 0.0  # when they will be


class Ticket(Errand):
    """An errand with its permit and those who wait for it.

    The event loop writes `gone` and `deadline`; the worker writes the times. Both only ever move one way, so
    neither needs a lock.
    """

    __slots__ = ("_encode", "_pieces", "_settled", "changed", "permit", "result")

    def __init__(
        self,
        task: str,
        model: str,
        job: Job,
        encode: Callable[[Any], bytes],
        *,
        deadline: float,
        permit: Permit | None = None,
        pieces: Callable[[list[Any]], None] | None = None,
    ) -> None:
        """
        Args:
            encode: from the job's result to the answer that is cached and sent.
            deadline: monotonic seconds; the worker gives up then.
            pieces: called on the event loop with what is added to the answer: the first piece at once, then
                what `PIECES_EVERY` seconds gave.
        """
        super().__init__(
            task, model, job, submitted=monotonic(), deadline=deadline, streams=pieces is not None
        )
        self.permit = permit
        self.result: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.result.add_done_callback(_retrieved)
        self.changed: Callable[[Ticket], None] | None = None
        """Called where `gone` or `deadline` has changed, by whoever cannot see it here."""
        self._encode = encode
        self._pieces = pieces
        self._settled: Callable[[Ticket], None] | None = None

    @property
    def answered(self) -> bool:
        """Whether the result is there, and is an answer."""
        return self.result.done() and not self.result.cancelled() and self.result.exception() is None

    @property
    def queued(self) -> float:
        """Seconds before the first step."""
        return (self.started or self.submitted) - self.submitted

    @property
    def ran(self) -> float:
        """Seconds from the first step to the last."""
        return self.finished - self.started if self.finished and self.started else 0.0

    def when_settled(self, call: Callable[[Ticket], None]) -> None:
        """`call(ticket)` once the rows are free again, whatever the end was."""
        self._settled = call

    def leave(self) -> None:
        """Nobody waits any more: the rows are freed within one step."""
        if not self.gone:
            self.gone = True
            if self.changed is not None:
                self.changed(self)

    def extend(self, deadline: float) -> None:
        """Somebody waits until then."""
        if deadline > self.deadline:
            self.deadline = deadline
            if self.changed is not None:
                self.changed(self)

    def deliver(self, delivery: Delivery) -> None:
        """On the event loop: pass on what a step gave."""
        if delivery.pieces and self._pieces is not None and not self.gone:
            self._pieces(delivery.pieces)
        if delivery.end is MORE or self.result.done():
            return
        if self.permit is not None:
            self.permit.release(worked=not isinstance(delivery.end, Problem))
        if isinstance(delivery.end, Problem):
            self.result.set_exception(delivery.end)
        else:
            self.result.set_result(self._encode(delivery.end))
        settled, self._settled, self._pieces = self._settled, None, None
        if settled is not None:  # both know this ticket, and would keep it and its answer alive for long
            settled(self)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a turn gave an errand: pieces of its answer, and at the end the job's result or the problem."""

    errand: Errand
    pieces: list[Any]
    end: Any = MORE


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Look at the exception, so that asyncio does not complain where everybody has left."""
    if not future.cancelled():
        future.exception()
