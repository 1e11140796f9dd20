"""The simulation beside the real server: the same requests at the same rate, on one core of this machine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from bench.capacity import texts
from bench.capacity.costs import Costs, Job
from bench.capacity.decoders import Model, size_of
from bench.capacity.measure import HOST, LANES, Server, ask, material, serve, settle
from bench.capacity.popularity import zipf
from bench.capacity.simulate import LOOKED_UP, Replica, Traffic, simulate
from bundle.load import open_bundle
from bundle.vectors import Vectors

_TEXTS = 400
_WARM = 5.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a load gave: requests, answers a second, milliseconds by task, share of a core."""

    arrived: int
    rate: float
    p50: dict[str, float]
    p99: dict[str, float]
    core: float
    others: float = 0.0
    """Share of the server's core that other processes had: what makes a measurement useless."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Measured and simulated."""

    asked: float
    measured: Seen
    simulated: Seen


def validate(
    models: Path,
    costs: Costs,
    traffic: Traffic,
    rates: Sequence[float],
    *,
    seconds: float,
    cores: tuple[int, int],
) -> list[Pair]:
    """Each rate for `seconds`, without a cache, so that every request is computed.

    Args:
        cores: of the server, of the client.

    Raises:
        OSError: the server did not start, or answered something else than 200 or 429.
    """
    given = material(models, _TEXTS, seed=1)
    words = open_bundle(models / "words-en", check=False)
    assert isinstance(words, Vectors)
    given["words"] = texts.words(words, 5000)
    costs = _sized(models, costs, given)
    # as many requests as there are texts: what is one request here must be one there
    several = {LOOKED_UP: len(given["words"])} | {task: _TEXTS * len(names) for task, names in LANES.items()}
    shares = {task: replace(share, distinct=several[task]) for task, share in traffic.shares.items()}
    traffic = replace(traffic, shares=shares, retries=0)
    found = []
    os.sched_setaffinity(0, {cores[1]})
    for number, rate in enumerate(rates):
        load = replace(traffic, rate=rate)
        with serve(models, core=cores[0], threads=1, cache_bytes=0) as server:
            settle(server)
            measured = _measured(server, given, load, seconds, seed=number, core=cores[0])
        replica = Replica(cores=1, threads=1, cache_bytes=0.0)
        outcome = simulate(costs, replica, load, seconds=5 * seconds, warm=_WARM, seed=number)
        simulated = Seen(
            arrived=outcome.arrived,
            rate=outcome.served / outcome.seconds,
            p50={task: 1e3 * outcome.percentile(task, 50) for task in load.shares},
            p99={task: 1e3 * outcome.percentile(task, 99) for task in load.shares},
            core=outcome.busy / outcome.seconds,
        )
        found.append(Pair(asked=rate, measured=measured, simulated=simulated))
    return found


def _sized(models: Path, costs: Costs, given: dict[str, list[str]]) -> Costs:
    """The costs with the sizes of the very texts that are sent."""
    lanes = {}
    for task, names in LANES.items():
        lanes[task] = []
        for lane, name in zip(costs.lanes[task], names, strict=True):
            model = open_bundle(models / name, check=False)
            assert isinstance(model, Model)
            jobs: list[Job] = [size_of(model, text) for text in given[name]]
            lanes[task].append(msgspec.structs.replace(lane, jobs=jobs))
    return msgspec.structs.replace(costs, lanes=lanes)


class _Client(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, crowd: _Crowd) -> None:
        self._crowd, self._seen = crowd, b""
        self._asked: tuple[str, float] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._crowd.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._crowd.left(self)

    def ask(self, raw: bytes, task: str, due: float) -> None:
        assert self.transport is not None
        self._asked = (task, due)
        self.transport.write(raw)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head = self._seen.find(b"\r\n\r\n")
        if head < 0 or len(self._seen) < head + 4 + _length(self._seen[:head]):
            return
        assert self._asked is not None
        self._crowd.answered(self, int(self._seen[9:12]), *self._asked)
        self._seen, self._asked = b"", None


def _busy_seconds(core: int) -> float:
    """How long a core was busy since the machine started (Linux: user, nice, system, interrupts, stolen)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            return sum(int(ticks[place]) for place in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _length(head: bytes) -> int:
    start = head.lower().index(b"content-length:") + len(b"content-length:")
    return int(head[start:].split(b"\r", 1)[0])


class _Crowd:
    """Clients that do not wait for one another."""

    def __init__(self, since: float) -> None:
        self._since = since
        self.idle: list[_Client] = []
        self.busy = 0
        self.latencies: dict[str, list[float]] = {}
        self.statuses: dict[int, int] = {}

    def answered(self, client: _Client, status: int, task: str, due: float) -> None:
        self.idle.append(client)
        self.busy -= 1
        if due >= self._since:
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status == 200:
                self.latencies.setdefault(task, []).append(time.perf_counter() - due)

    def left(self, client: _Client) -> None:
        """The server closes what is idle for long."""
        if client in self.idle:
            self.idle.remove(client)

    async def ask(self, port: int, raw: bytes, task: str, due: float) -> None:
        """On the connection that was used last, or on a new one."""
        self.busy += 1
        if not self.idle:
            await asyncio.get_running_loop().create_connection(lambda: _Client(self), HOST, port)
        self.idle.pop().ask(raw, task, due)


def _measured(
    server: Server, given: dict[str, list[str]], traffic: Traffic, seconds: float, *, seed: int, core: int
) -> Seen:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive(server, given, traffic, seconds, seed, core))


async def _drive(
    server: Server, given: dict[str, list[str]], traffic: Traffic, seconds: float, seed: int, core: int
) -> Seen:
    rng = np.random.default_rng(seed)
    weights = np.array([share.weight for share in traffic.shares.values()])
    count = int(traffic.rate * (seconds + _WARM))
    tasks = rng.choice(list(traffic.shares), count, p=weights / weights.sum()).tolist()
    ranks = {
        task: rng.choice(share.distinct, count, p=zipf(share.distinct, share.exponent))
        for task, share in traffic.shares.items()
    }
    raws = [_raw(task, int(ranks[task][place]), given) for place, task in enumerate(tasks)]
    start = time.perf_counter() + 0.1
    dues = (start + np.cumsum(rng.exponential(1 / traffic.rate, count))).tolist()
    crowd = _Crowd(start + _WARM)
    spent: float | None = None
    busy = 0.0
    arrived = 0
    for task, raw, due in zip(tasks, raws, dues, strict=True):
        while (wait := due - time.perf_counter()) > 0:  # noqa: ASYNC110 (till a moment, not for an event)
            await asyncio.sleep(max(0.0, wait - 0.002))  # timers are a millisecond coarse
        if due >= crowd._since:
            if spent is None:
                spent, busy = server.processor_seconds(), _busy_seconds(core)
            arrived += 1
        await crowd.ask(server.port, raw, task, due)
    used = server.processor_seconds() - (spent or 0.0)
    last = time.perf_counter() - crowd._since
    others = _busy_seconds(core) - busy - used
    while crowd.busy:  # noqa: ASYNC110 (an event for every answer would cost more)
        await asyncio.sleep(0.01)
    for client in list(crowd.idle):
        assert client.transport is not None
        client.transport.close()
    if set(crowd.statuses) - {200, 429}:
        raise OSError(f"the server answered {crowd.statuses}")
    return Seen(
        arrived=arrived,
        rate=crowd.statuses.get(200, 0) / last,
        p50={task: 1e3 * float(np.percentile(found, 50)) for task, found in crowd.latencies.items()},
        p99={task: 1e3 * float(np.percentile(found, 99)) for task, found in crowd.latencies.items()},
        core=used / last,
        others=max(0.0, others / last),
    )


def _raw(task: str, rank: int, given: dict[str, list[str]]) -> bytes:
    """The request of a rank: the same text for the same rank as in the simulation."""
    if task == LOOKED_UP:
        return ask(task, "en", given["words"][rank % len(given["words"])])
    names = LANES[task]
    name = names[rank % len(names)]
    return ask(task, name, given[name][rank // len(names) % len(given[name])])
