"""Many requests, one step: the threads that drive the decoders of bundle/.

A lane is one model: its decoder, the tickets that wait and the tickets whose rows are in it. A few worker
threads share all lanes; a free thread takes the next lane that has work, and a lane is stepped by one thread
at a time. Whatever waits joins between two steps; there is no timer. The event loop hands tickets in and gets
pieces and results back, one call a step however many tickets the step concerns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from bundle.decoding import Decoder, Finished
from service.errors import Problem, deadline_exceeded, from_exception, unavailable
from service.metrics import Metrics
from service.ticket import PIECES_EVERY, Delivery, Ticket

logger = logging.getLogger("voisin")

_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)  # POSIX's
_NICER = 4  # than the event loop, see getpriority(2)


def worker_dead() -> Problem:
    """What is answered from the death of a thread until the process is restarted."""
    return unavailable("worker_dead", "the decoding thread has ended; this process will be restarted")


class Lane:
    """One model's rows. Everything but `inbox` belongs to the thread that is stepping it."""

    def __init__(self, name: str, make_decoder: Callable[[], Decoder]) -> None:
        self.name = name
        self.inbox: deque[Ticket] = deque()
        self.arrivals: list[Ticket] = []  # out of the inbox, with the thread whose turn it is
        self.active: dict[Ticket, None] = {}
        self.busy = False
        self.failures = 0  # steps in a row that raised
        self.failed_at: float | None = None
        self.forward_at: float | None = None  # when the last step succeeded
        self.turn_at: float | None = None  # when the running turn began
        self._make_decoder = make_decoder
        self._decoder = make_decoder()

    @property
    def has_work(self) -> bool:
        return bool(self.inbox or self.active)

    def turn(self, arrivals: list[Ticket], metrics: Metrics) -> list[Delivery]:
        """Let the arrivals in, drop who left or is late, make one step, hand out what it gave."""
        deliveries: list[Delivery] = []
        now = monotonic()
        for ticket in arrivals:
            self._let_in(ticket, now, metrics, deliveries)
        for ticket in [ticket for ticket in self.active if ticket.gone or now >= ticket.deadline]:
            self._drop(ticket, "running", metrics, deliveries)
        if self.active:
            try:
                self._step(metrics, deliveries)
            except Exception:
                self._fail(deliveries)
        return deliveries

    def _let_in(self, ticket: Ticket, now: float, metrics: Metrics, deliveries: list[Delivery]) -> None:
        series = metrics.decoding.get(ticket.task)
        if series:
            series.queue_depth.dec()
        if ticket.gone or now >= ticket.deadline:
            self._drop(ticket, "queued", metrics, deliveries)
            return
        ticket.started = now
        if series:
            series.queue_wait.observe(now - ticket.submitted)
            series.tokens_in.inc(ticket.tokens_in)
        self.active[ticket] = None
        if ticket.job.done:  # nothing to decode, e.g. a text of blanks
            self._finish(ticket, [], deliveries)
            return
        try:
            self._ask(ticket)
        except Exception as error:  # this one cannot be decoded; the others can
            self._reject(ticket, error, deliveries)

    def _ask(self, ticket: Ticket) -> None:
        """Give the decoder what a job wants and has not asked before."""
        for index in range(ticket.asked, len(ticket.job.requests)):
            self._decoder.add(ticket.job.requests[index], (ticket, index))
            ticket.asked = index + 1

    def _drop(self, ticket: Ticket, stage: str, metrics: Metrics, deliveries: list[Delivery]) -> None:
        if ticket in self.active:
            del self.active[ticket]
            self._cancel(ticket)
        problem: Problem | None = None
        if ticket.gone:
            if ticket.task in metrics.decoding:
                metrics.decoding[ticket.task].cancelled[stage].inc()
        else:
            if ticket.task in metrics.decoding:
                metrics.tasks[ticket.task].rejected["deadline"].inc()
            problem = deadline_exceeded(ticket.allowed)
        deliveries.append(Delivery(ticket, ticket.held, problem or unavailable("cancelled", "nobody waits")))

    def _cancel(self, ticket: Ticket) -> None:
        for index in range(len(ticket.job.requests)):
            for finished in self._decoder.cancel((ticket, index)):
                ticket.tokens_out += len(finished.ids)

    def _step(self, metrics: Metrics, deliveries: list[Delivery]) -> None:
        before, last = self._decoder.active, self.forward_at
        events = self._decoder.step()
        now = monotonic()
        self.forward_at, self.failures, self.failed_at = now, 0, None
        rows = max(before, self._decoder.active, 1)
        pieces: dict[Ticket, list[Any]] = {}
        for event in events:
            tag: Any = event.tag  # the decoder gives back what `_let_in` gave it
            ticket: Ticket = tag[0]
            if ticket not in self.active:
                continue
            if isinstance(event, Finished):
                ticket.tokens_out += len(event.ids)
            if ticket.first is None:
                ticket.first = now
            try:
                pieces.setdefault(ticket, []).extend(ticket.job.feed(tag[1], event))
                self._ask(ticket)
            except Exception as error:
                self._reject(ticket, error, deliveries)
                del pieces[ticket]
        for ticket, given in pieces.items():
            if ticket.job.done:
                self._finish(ticket, [*ticket.held, *given], deliveries)
            elif given and ticket.streams:
                ticket.held += given
                # every delivery wakes the event loop, which takes the core from the next step: not for each
                # token of each stream, but where the lane's next step, other lanes' turns before it, would
                # end too late
                if last is None or now + (now - last) >= ticket.tell_at:
                    deliveries.append(Delivery(ticket, ticket.held))
                    ticket.held, ticket.tell_at = [], now + PIECES_EVERY
        for series in {ticket.task: None for ticket in pieces}:
            if series in metrics.decoding:
                metrics.decoding[series].batch_size.observe(rows)

    def _reject(self, ticket: Ticket, error: Exception, deliveries: list[Delivery]) -> None:
        problem = from_exception(error)
        if problem.status >= 500:
            logger.exception("a job failed", extra={"data": {"model": self.name}})
        del self.active[ticket]
        self._cancel(ticket)
        deliveries.append(Delivery(ticket, ticket.held, problem))

    def _finish(self, ticket: Ticket, pieces: list[Any], deliveries: list[Delivery]) -> None:
        del self.active[ticket]
        ticket.finished = monotonic()
        deliveries.append(Delivery(ticket, pieces, ticket.job.result()))

    def _fail(self, deliveries: list[Delivery]) -> None:
        """A step raised: its rows are lost, the decoder may be broken. Answer all of them, begin anew."""
        logger.exception("a step failed", extra={"data": {"model": self.name}})
        self.failures += 1
        if self.failed_at is None:
            self.failed_at = monotonic()
        done = {delivery.ticket for delivery in deliveries}
        for ticket in [ticket for ticket in self.active if ticket not in done]:
            problem = unavailable("model_failed", f"the model {self.name} failed; it is being started again")
            deliveries.append(Delivery(ticket, ticket.held, problem))
        self.active.clear()
        self._decoder = self._make_decoder()


class Batcher:
    """Takes tickets from the event loop, gives deliveries back to it."""

    def __init__(
        self, decoders: Mapping[str, Callable[[], Decoder]], *, threads: int, metrics: Metrics
    ) -> None:
        """
        Args:
            decoders: model name -> maker of a fresh decoder over the model's shared session.
            threads: worker threads; more than there are lanes are not started.
        """
        self.lanes = {name: Lane(name, make) for name, make in decoders.items()}
        self._order = deque(self.lanes.values())
        self._metrics = metrics
        self._wanted = min(threads, len(self.lanes))
        self._condition = threading.Condition()
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.died_at: float | None = None  # when a worker thread ended on its own

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        for number in range(self._wanted):
            thread = threading.Thread(target=self._run, name=f"decoder-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads after the step they are in. What still waits is not answered: drain first."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket; its deliveries arrive on the event loop."""
        if self.died_at is not None:
            raise worker_dead()
        if ticket.task in self._metrics.decoding:
            self._metrics.decoding[ticket.task].queue_depth.inc()
        with self._condition:
            self.lanes[ticket.model].inbox.append(ticket)
            self._condition.notify()

    def _next(self) -> tuple[Lane, list[Ticket]] | None:
        """The next lane with work, taken in turn, with what waits for it. None when it is time to go."""
        with self._condition:
            while not self._stopping:
                for _ in range(len(self._order)):
                    lane = self._order[0]
                    self._order.rotate(-1)
                    if lane.has_work and not lane.busy:
                        lane.busy = True
                        lane.turn_at = monotonic()
                        lane.arrivals = list(lane.inbox)
                        lane.inbox.clear()
                        return lane, lane.arrivals
                self._condition.wait()
            return None

    def _run(self) -> None:
        _step_back()
        try:
            while taken := self._next():
                self._turn(*taken)
                del taken  # while waiting for more, nothing that was answered is kept
        except BaseException:
            logger.exception("a decoding thread died")
            self._died()

    def _turn(self, lane: Lane, arrivals: list[Ticket]) -> None:
        deliveries = lane.turn(arrivals, self._metrics)
        if deliveries:
            # before another thread may take the lane: what its turn gives must not arrive first
            self._post(deliveries)
            if len(lane.active) <= 1:
                # the loop is awake, but the scheduler may keep it waiting for milliseconds: who streams alone
                # sees its first word sooner so; among many the next step comes first
                _give_way()
        with self._condition:
            lane.busy = False
            lane.arrivals = []
            lane.turn_at = None
            if lane.has_work:
                self._condition.notify()

    def _died(self) -> None:
        with self._condition:
            self.died_at = monotonic()
            self._stopping = True  # the others too: half a service is harder to notice than none
            waiting = [t for lane in self.lanes.values() for t in (*lane.active, *lane.arrivals, *lane.inbox)]
            self._condition.notify_all()
        problem = worker_dead()
        self._post([Delivery(ticket, [], problem) for ticket in waiting])

    def _post(self, deliveries: list[Delivery]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(_deliver, deliveries)


def _step_back() -> None:
    """Let the event loop go first where both want the core: what it does takes microseconds, a step does not.

    Niceness is a thread's own on Linux; elsewhere nothing is changed.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)


def _deliver(deliveries: list[Delivery]) -> None:
    for delivery in deliveries:
        delivery.ticket.deliver(delivery)
