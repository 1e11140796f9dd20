"""One model's rows: the decoder of a lane, the errands that wait for it and those whose rows are in it.

A lane knows neither threads nor processes. Whoever steps it takes one turn after another: what waits is let
in, who left or is late is dropped, one step is made, and what it gave is handed out.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from bundle.decoding import Decoder, Finished
from service.errors import Problem, deadline_exceeded, from_exception, unavailable
from service.tally import Stage, Tally
from service.ticket import PIECES_EVERY, Delivery, Errand

logger = logging.getLogger("voisin")

PULSE = 5
"""Numbers of a pulse."""


class Numbers(Protocol):
    """A list, or a view of memory."""

    def __getitem__(self, place: int, /) -> float: ...

    def __setitem__(self, place: int, value: float, /) -> None: ...


class _Moment:
    """A number of a pulse that may be missing."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __get__(self, pulse: Pulse, _: type[Pulse]) -> float | None:
        found = pulse.numbers[self._place]
        return None if math.isnan(found) else found

    def __set__(self, pulse: Pulse, value: float | None) -> None:
        pulse.numbers[self._place] = math.nan if value is None else value


class _Count:
    """A number of a pulse that counts."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __get__(self, pulse: Pulse, _: type[Pulse]) -> int:
        return int(pulse.numbers[self._place])

    def __set__(self, pulse: Pulse, value: int) -> None:
        pulse.numbers[self._place] = value


class Pulse:
    """What health asks of a lane, whichever process steps it. Times are monotonic seconds.

    Attributes:
        forward_at: when the last step succeeded.
        turn_at: when the running turn began.
        failed_at: when the first of the last steps that all raised did.
        failures: steps in a row that raised.
        rows: in the batch after the last turn.
    """

    forward_at = _Moment(0)
    turn_at = _Moment(1)
    failed_at = _Moment(2)
    failures = _Count(3)
    rows = _Count(4)

    def __init__(self, name: str, numbers: Numbers | None = None) -> None:
        """
        Args:
            numbers: `PULSE` of them, where this and another process see them.
        """
        self.name = name
        self.numbers: Numbers = [0.0] * PULSE if numbers is None else numbers
        self.forward_at = self.turn_at = self.failed_at = None
        self.failures = self.rows = 0


class Lane(Pulse):
    """One model's rows. Everything but `inbox` belongs to whoever is stepping it."""

    def __init__(
        self, name: str, make_decoder: Callable[[], Decoder], numbers: Numbers | None = None
    ) -> None:
        super().__init__(name, numbers)
        self.inbox: deque[Errand] = deque()
        self.arrivals: list[Errand] = []  # out of the inbox, with the thread whose turn it is
        self.active: dict[Errand, None] = {}
        self.busy = False
        self._make_decoder = make_decoder
        self._decoder = make_decoder()

    @property
    def has_work(self) -> bool:
        return bool(self.inbox or self.active)

    def turn(self, arrivals: list[Errand], tally: Tally) -> list[Delivery]:
        """Let the arrivals in, drop who left or is late, make one step, hand out what it gave."""
        deliveries: list[Delivery] = []
        now = monotonic()
        for errand in arrivals:
            self._let_in(errand, now, tally, deliveries)
        for errand in [errand for errand in self.active if errand.gone or now >= errand.deadline]:
            self._drop(errand, "running", tally, deliveries)
        if self.active:
            try:
                self._step(tally, deliveries)
            except Exception:
                self._fail(deliveries)
        self.rows = self._decoder.active
        return deliveries

    def _let_in(self, errand: Errand, now: float, tally: Tally, deliveries: list[Delivery]) -> None:
        tally.unqueued(errand.task)
        if errand.gone or now >= errand.deadline:
            self._drop(errand, "queued", tally, deliveries)
            return
        errand.started = now
        tally.began(errand.task, now - errand.submitted, errand.tokens_in)
        self.active[errand] = None
        if errand.job.done:  # nothing to decode, e.g. a text of blanks
            self._finish(errand, [], deliveries)
            return
        try:
            self._ask(errand)
        except Exception as error:  # this one cannot be decoded; the others can
            self._reject(errand, error, deliveries)

    def _ask(self, errand: Errand) -> None:
        """Give the decoder what a job wants and has not asked before."""
        for index in range(errand.asked, len(errand.job.requests)):
            self._decoder.add(errand.job.requests[index], (errand, index))
            errand.asked = index + 1

    def _drop(self, errand: Errand, stage: Stage, tally: Tally, deliveries: list[Delivery]) -> None:
        if errand in self.active:
            del self.active[errand]
            self._cancel(errand)
        problem: Problem | None = None
        if errand.gone:
            tally.cancelled(errand.task, stage)
        else:
            tally.late(errand.task)
            problem = deadline_exceeded(errand.allowed)
        deliveries.append(Delivery(errand, errand.held, problem or unavailable("cancelled", "nobody waits")))

    def _cancel(self, errand: Errand) -> None:
        for index in range(len(errand.job.requests)):
            for finished in self._decoder.cancel((errand, index)):
                errand.tokens_out += len(finished.ids)

    def _step(self, tally: Tally, deliveries: list[Delivery]) -> None:
        before, last = self._decoder.active, self.forward_at
        events = self._decoder.step()
        now = monotonic()
        self.forward_at, self.failures, self.failed_at = now, 0, None
        rows = max(before, self._decoder.active, 1)
        pieces: dict[Errand, list[Any]] = {}
        for event in events:
            tag: Any = event.tag  # the decoder gives back what `_let_in` gave it
            errand: Errand = tag[0]
            if errand not in self.active:
                continue
            if isinstance(event, Finished):
                errand.tokens_out += len(event.ids)
            if errand.first is None:
                errand.first = now
            try:
                pieces.setdefault(errand, []).extend(errand.job.feed(tag[1], event))
                self._ask(errand)
            except Exception as error:
                self._reject(errand, error, deliveries)
                del pieces[errand]
        for errand, given in pieces.items():
            if errand.job.done:
                self._finish(errand, [*errand.held, *given], deliveries)
            elif given and errand.streams:
                errand.held += given
                # every delivery wakes the event loop, which takes the core from the next step: not for each
                # token of each stream, but where the lane's next step, other lanes' turns before it, would
                # end too late
                if last is None or now + (now - last) >= errand.tell_at:
                    deliveries.append(Delivery(errand, errand.held))
                    errand.held, errand.tell_at = [], now + PIECES_EVERY
        for task in {errand.task: None for errand in pieces}:
            tally.stepped(task, rows)

    def _reject(self, errand: Errand, error: Exception, deliveries: list[Delivery]) -> None:
        problem = from_exception(error)
        if problem.status >= 500:
            logger.exception("a job failed", extra={"data": {"model": self.name}})
        del self.active[errand]
        self._cancel(errand)
        deliveries.append(Delivery(errand, errand.held, problem))

    def _finish(self, errand: Errand, pieces: list[Any], deliveries: list[Delivery]) -> None:
        del self.active[errand]
        errand.finished = monotonic()
        deliveries.append(Delivery(errand, pieces, errand.job.result()))

    def _fail(self, deliveries: list[Delivery]) -> None:
        """A step raised: its rows are lost, the decoder may be broken. Answer all of them, begin anew."""
        logger.exception("a step failed", extra={"data": {"model": self.name}})
        self.failures += 1
        if self.failed_at is None:
            self.failed_at = monotonic()
        done = {delivery.errand for delivery in deliveries}
        for errand in [errand for errand in self.active if errand not in done]:
            problem = unavailable("model_failed", f"the model {self.name} failed; it is being started again")
            deliveries.append(Delivery(errand, errand.held, problem))
        self.active.clear()
        self._decoder = self._make_decoder()
