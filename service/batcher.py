"""Many requests, one step: the threads that drive the decoders of bundle/.

A few worker threads share all lanes; a free thread takes the next lane that has work, and a lane is stepped
by one thread at a time. Whatever waits joins between two steps; there is no timer. The event loop hands
tickets in and gets pieces and results back, one call a step however many tickets the step concerns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import cast

from bundle.decoding import Decoder
from service.lane import Lane
from service.metrics import Metrics
from service.tally import Counted
from service.ticket import Delivery, Errand, Ticket
from service.workers import give_way, step_back, worker_dead

logger = logging.getLogger("voisin")


class Batcher:
    """`Workers` that are threads of this process."""

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
        self._tally = Counted(metrics)
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
        self._tally.queued(ticket.task)
        with self._condition:
            self.lanes[ticket.model].inbox.append(ticket)
            self._condition.notify()

    def _next(self) -> tuple[Lane, list[Errand]] | None:
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
        step_back()
        try:
            while taken := self._next():
                self._turn(*taken)
                del taken  # while waiting for more, nothing that was answered is kept
        except BaseException:
            logger.exception("a decoding thread died")
            self._died()

    def _turn(self, lane: Lane, arrivals: list[Errand]) -> None:
        deliveries = lane.turn(arrivals, self._tally)
        if deliveries:
            # before another thread may take the lane: what its turn gives must not arrive first
            self._post(deliveries)
            if len(lane.active) <= 1:
                # the loop is awake, but the scheduler may keep it waiting for milliseconds: who streams alone
                # sees its first word sooner so; among many the next step comes first
                give_way()
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


def _deliver(deliveries: list[Delivery]) -> None:
    for delivery in deliveries:
        cast(Ticket, delivery.errand).deliver(delivery)  # nothing else was submitted
