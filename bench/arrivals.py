"""`python -m bench.arrivals`: clients that do not wait for one another.

A process of its own. It reads a `Plan` as JSON, asks at the times of a Poisson process, whatever the server
has to say, and writes a `Record`. A request that finds no idle connection opens one. Waits count from when a
request was due, so a client or a server that falls behind cannot hide it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import cast

import msgspec
import numpy as np
import uvloop

from bench.load import length, post

WARM = 16  # connections opened beforehand


class Plan(msgspec.Struct, kw_only=True):
    """What to ask, and how often."""

    host: str
    port: int
    path: str
    bodies: list[str]
    """JSON; taken round and round."""
    rate: float
    """Requests a second."""
    seconds: float
    patience: float
    """Seconds that the last answers may take."""
    seed: int = 0


class Record(msgspec.Struct, kw_only=True):
    """What came back."""

    sent: int
    statuses: dict[int, int]
    waits: dict[int, list[float]]
    """By status: seconds from when the request was due to the last byte of its answer."""
    lost: int
    """Connections closed with a request under way."""
    unanswered: int
    seconds: float
    """From the first request to the last answer."""
    late: float
    """Seconds by which requests were sent later than they were due, 99th percentile."""
    connections: int


class _Lane(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, crowd: _Crowd) -> None:
        self._crowd = crowd
        self._seen = b""
        self._due: float | None = None
        self._waiting: tuple[bytes, float] | None = None
        self._transport: asyncio.Transport | None = None

    def ask(self, request: bytes, due: float) -> None:
        if self._transport is None:
            self._waiting = (request, due)
            return
        self._due = due
        self._crowd.late.append(time.perf_counter() - due)
        self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own does not derive from it
        if self._waiting is not None:
            self.ask(*self._waiting)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head = self._seen.find(b"\r\n\r\n")
        if head < 0 or len(self._seen) < head + 4 + length(self._seen[:head]):
            return
        status, self._seen = int(self._seen[9:12]), b""
        assert self._due is not None
        self._crowd.answered(self, status, time.perf_counter() - self._due)
        self._due = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._crowd.left(self, self._due is not None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Crowd:
    """All connections."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._idle: deque[_Lane] = deque()
        self._opening: set[asyncio.Task[object]] = set()
        self.lanes = 0
        self.late: list[float] = []
        self.waits: dict[int, list[float]] = {}
        self.lost = 0
        self.last = 0.0
        self._open = True

    def answered(self, lane: _Lane, status: int, waited: float) -> None:
        self.waits.setdefault(status, []).append(waited)
        self.last = time.perf_counter()
        self._idle.append(lane)

    def left(self, lane: _Lane, busy: bool) -> None:
        self.lost += busy and self._open
        if lane in self._idle:
            self._idle.remove(lane)

    @property
    def _ended(self) -> int:
        return sum(map(len, self.waits.values())) + self.lost

    async def run(self) -> Record:
        plan, loop = self._plan, asyncio.get_running_loop()
        for _ in range(WARM):
            lane = _Lane(self)
            await loop.create_connection(lambda lane=lane: lane, plan.host, plan.port)  # type: ignore[misc]
            self._idle.append(lane)
            self.lanes += 1
        requests = [post(plan.path, body, host=f"{plan.host}:{plan.port}") for body in plan.bodies]
        rng = np.random.default_rng(plan.seed)
        gaps = rng.exponential(1 / plan.rate, int(plan.rate * plan.seconds * 2) + 64)
        start = time.perf_counter()
        dues = start + np.cumsum(gaps)
        sent = int(np.searchsorted(dues, start + plan.seconds))
        for number in range(sent):
            due = float(dues[number])
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            elif number % 16 == 0:
                await asyncio.sleep(0)  # late: still read what has come
            self._ask(requests[number % len(requests)], due)
        until = time.perf_counter() + plan.patience
        # an event for every answer would cost more than to look
        while self._ended < sent and time.perf_counter() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self._open = False
        record = Record(
            sent=sent,
            statuses={status: len(waits) for status, waits in sorted(self.waits.items())},
            waits=self.waits,
            lost=self.lost,
            unanswered=sent - self._ended,
            seconds=self.last - start,
            late=float(np.percentile(self.late, 99)) if self.late else 0.0,
            connections=self.lanes,
        )
        for lane in self._idle:
            lane.close()
        return record

    def _ask(self, request: bytes, due: float) -> None:
        if self._idle:
            self._idle.pop().ask(request, due)
            return
        lane = _Lane(self)
        lane.ask(request, due)
        self.lanes += 1
        opening = asyncio.get_running_loop().create_task(self._connect(lane))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _connect(self, lane: _Lane) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: lane, self._plan.host, self._plan.port)
        except OSError:
            self.lost += 1


def main(_: Sequence[str] | None = None) -> int:
    """Plan on stdin, record on stdout."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        record = runner.run(_Crowd(plan).run())
    sys.stdout.buffer.write(msgspec.json.encode(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
