"""What a forked process does: it steps lanes for the event loop at the other end of a socket."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import select
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, process_time
from typing import Any, NamedTuple, NoReturn

from service.collector import collect
from service.lane import Lane
from service.tally import Entry, Journal
from service.ticket import MORE, Delivery, Errand, Job
from service.wire import Frames, framed
from service.workers import give_way, step_back

logger = logging.getLogger("voisin")

_SPENT = 0.1  # seconds of processor time that are told at once
_TOLD = 0.05  # seconds that what was counted may wait for something to be told with it

Change = tuple[int, float | None]
"""The number of an errand and its new deadline; None where nobody waits any more."""
Told = tuple[list[Entry], list[tuple[Any, ...]]]
"""What was counted, and of each errand with news: its number and pieces; at its end the rest of `Ended`."""


class Asked(NamedTuple):
    """A new errand, as it is sent."""

    number: int
    task: str
    model: str
    job: Job
    submitted: float
    deadline: float
    streams: bool


class Ended(NamedTuple):
    """The end of an errand, as it is sent."""

    number: int
    pieces: list[Any]
    end: Any
    started: float | None
    first: float | None
    finished: float | None
    tokens_out: int


class Worker:
    """Steps lanes until the socket is closed."""

    def __init__(self, link: socket.socket, lanes: Sequence[Lane]) -> None:
        self._link = link
        self._arrived = select.poll()
        self._arrived.register(link, select.POLLIN)
        self._lanes = {lane.name: lane for lane in lanes}
        self._order = deque(lanes)
        self._frames = Frames()
        self._journal = Journal()
        self._errands: dict[int, Errand] = {}
        self._numbers: dict[Errand, int] = {}
        self._told_at = 0.0
        self._worked = process_time()

    def run(self) -> None:
        """Return when nobody is at the other end."""
        try:
            while self._read():
                self._turn()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _turn(self) -> None:
        """One turn of the next lane that has work."""
        lane = next((lane for lane in self._order if lane.has_work), None)
        if lane is None:
            return
        self._order.remove(lane)
        self._order.append(lane)
        arrivals = list(lane.inbox)
        lane.inbox.clear()
        lane.turn_at = monotonic()
        deliveries = lane.turn(arrivals, self._journal)
        lane.turn_at = None
        if deliveries or monotonic() - self._told_at > _TOLD:
            self._tell(deliveries)
            if len(lane.active) <= 1:
                give_way()  # see service.batcher

    def _read(self) -> bool:
        """Take in what has come; wait for it where nothing else is to do. False where nobody is left."""
        idle = not any(lane.has_work for lane in self._lanes.values())
        collect(idle=idle)
        if idle:
            self._tell([])
        elif not self._arrived.poll(0):
            return True
        messages = self._frames.receive(self._link)
        if messages is None:
            return False
        for message in messages:
            if len(message) == len(Asked._fields):
                self._take(Asked(*message))
            else:
                self._change(*message)
        return True

    def _take(self, asked: Asked) -> None:
        errand = Errand(
            asked.task, asked.model, asked.job,
            submitted=asked.submitted, deadline=asked.deadline, streams=asked.streams,
        )  # fmt: skip
        self._errands[asked.number] = errand
        self._numbers[errand] = asked.number
        self._lanes[asked.model].inbox.append(errand)

    def _change(self, number: int, deadline: float | None) -> None:
        errand = self._errands.get(number)
        if errand is None:  # its end is on the way
            return
        if deadline is None:
            errand.gone = True
        else:
            errand.deadline = deadline

    def _tell(self, deliveries: Sequence[Delivery]) -> None:
        worked = process_time()
        if worked - self._worked > _SPENT:
            self._journal.worked(worked - self._worked)
            self._worked = worked
        entries = self._journal.taken()
        if not entries and not deliveries:
            return
        given: list[tuple[Any, ...]] = []
        for delivery in deliveries:
            errand, number = delivery.errand, self._numbers[delivery.errand]
            if delivery.end is MORE:
                given.append((number, delivery.pieces))
                continue
            del self._numbers[errand], self._errands[number]
            times = errand.started, errand.first, errand.finished
            given.append((number, delivery.pieces, delivery.end, *times, errand.tokens_out))
        told: Told = entries, given
        self._link.sendall(framed(pickle.dumps(told, 5)))
        self._told_at = monotonic()


def work(
    link: socket.socket, foreign: Sequence[socket.socket], lanes: Callable[[], Sequence[Lane]]
) -> NoReturn:
    """All that a forked process does, to its end.

    Args:
        foreign: the event loop's ends, which the fork has copied: as long as one is open here, another worker
            does not see that the event loop has ended.
    """
    for each in foreign:
        each.close()
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for all: who asks us tells us when to go
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()
    gc.disable()  # see service.collector
    step_back()
    status = 0
    try:
        Worker(link, lanes()).run()
    except BaseException:
        logger.exception("a decoding process died")
        status = 1
    logging.shutdown()
    os._exit(status)  # what the parent has opened is the parent's to close
