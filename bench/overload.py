"""What does the service do when too much is asked: half of what it can do, to ten times as much?

Capacity is what a closed crowd of clients gets answered. Then requests come by a Poisson process, whatever
the answers, from a process of its own; beside it health is asked twenty times a second.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from bench.arrivals import Plan, Record
from bench.cores import on, split, told
from bench.load import drive, family, post, processor_seconds
from bench.rounds import Row
from bench.sentences import french
from export.server import HOST, Server, serve

MULTIPLES = (0.5, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0)
PEER = "1x"
CLOSED = 16
"""Clients that wait for their answers, to measure capacity: their beams fill the batch."""
_HEALTH = 0.05  # seconds between two questions
_LOOK = 20  # questions between two looks at the memory


@dataclass(frozen=True)
class Level:
    """What one rate of arrivals gave."""

    multiple: float
    offered: float
    record: Record
    health: list[float]
    asleep: float
    """Seconds that whoever asks for health slept too long at most: the machine's part of the longest wait."""
    memory: float
    processor: float
    """Seconds of the server's processor time."""
    stolen: float = 0.0
    """Share of the server's cores that the host of this virtual machine gave to others."""

    @property
    def answered(self) -> float:
        """Answers a second."""
        return self.record.statuses.get(200, 0) / self.record.seconds

    @property
    def answered_of_processor(self) -> float:
        """Answers a second of the server's processor time, refusals and health included in it."""
        return self.record.statuses.get(200, 0) / self.processor

    def wait(self, status: int, q: float) -> float:
        """Milliseconds within which q percent of the answers of this status came; NaN without any."""
        waits = self.record.waits.get(status)
        return float(np.percentile(waits, q)) * 1e3 if waits else math.nan


def measure(
    models: Path,
    *,
    seconds: float = 8.0,
    rounds: int = 1,
    multiples: tuple[float, ...] = MULTIPLES,
    pair: str = "fr-en",
    apart: bool = False,
) -> list[Row]:
    """Every multiple of capacity, `rounds` times in turns; single sentences, translated as shipped.

    Raises RuntimeError where a request was lost, or answered with anything but 200 and 429.
    """
    server_cores, client_cores = split(apart=apart)
    source, target = pair.split("-")
    texts = french(20_000)
    bodies = [json.dumps({"q": text, "source": source, "target": target, "model": pair}) for text in texts]
    with on(server_cores):
        running = serve(models, {"VOISIN_LOG_LEVEL": "warning"})
        server = running.__enter__()
    try:
        with on(client_cores):
            capacity = closed(server, bodies, seconds=seconds)
            levels = [
                level(server, bodies, capacity, multiple, seconds=seconds, seed=number)
                for number in range(rounds)
                for multiple in multiples
            ]
            left = backlog(server.port)
    finally:
        running.__exit__(None, None, None)
    if left:
        raise RuntimeError(f"{left} requests are still counted as admitted")
    return table(levels, capacity, told(server_cores, client_cores))


def closed(server: Server, bodies: list[str], *, seconds: float, warm: float = 2.0) -> float:
    """Answers a second to clients that each wait for theirs."""
    requests = [post("/translate", body, host=f"{HOST}:{server.port}") for body in bodies]
    drive(HOST, server.port, requests, concurrency=CLOSED, seconds=warm)  # warms up
    return drive(HOST, server.port, requests, concurrency=CLOSED, seconds=seconds).rate


def level(
    server: Server, bodies: list[str], capacity: float, multiple: float, *, seconds: float, seed: int = 0
) -> Level:
    """One rate of arrivals.

    Raises RuntimeError where not every request was answered, and with 200 or 429.
    """
    plan = Plan(
        host=HOST, port=server.port, path="/translate", bodies=bodies, rate=multiple * capacity,
        seconds=seconds, patience=60.0, seed=seed,
    )  # fmt: skip
    before, kept = processor_seconds(server.process.pid), stolen(server.process.pid)
    start = time.perf_counter()
    with Watch(server) as watch:
        done = subprocess.run(
            [sys.executable, "-m", "bench.arrivals"],
            input=msgspec.json.encode(plan),
            stdout=subprocess.PIPE,
            check=True,
        )
    record = msgspec.json.decode(done.stdout, type=Record)
    print(
        f"  {multiple:g}x: {record.statuses}, lost {record.lost}, unanswered {record.unanswered}, "
        f"late {record.late * 1e3:.1f} ms, {record.connections} connections",
        file=sys.stderr,
    )
    strange = set(record.statuses) - {200, 429}
    if record.lost or record.unanswered or strange:
        raise RuntimeError(f"at {multiple:g}x: {record.lost} lost, {record.unanswered} unanswered, {strange}")
    processor = processor_seconds(server.process.pid) - before
    share = (stolen(server.process.pid) - kept) / (time.perf_counter() - start)
    return Level(
        multiple, record.sent / seconds, record, watch.waits, watch.asleep, watch.memory, processor, share
    )


class Watch:
    """Asks for health twenty times a second, and looks at the memory of the server, while the block lasts."""

    def __init__(self, server: Server) -> None:
        self.waits: list[float] = []
        self.asleep = 0.0
        """Seconds by which this thread woke too late, at most."""
        self.memory = 0.0
        """Most resident memory seen, in MB."""
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(HOST, self._server.port, timeout=30)
        paths = ("/health/live", "/health/ready")
        lain = time.perf_counter()
        while not self._stop.wait(_HEALTH):
            start = time.perf_counter()
            self.asleep = max(self.asleep, start - lain - _HEALTH)
            connection.request("GET", paths[len(self.waits) % 2])
            answer = connection.getresponse()
            answer.read()
            self.waits.append(time.perf_counter() - start)
            if answer.status != 200:
                raise RuntimeError(f"health answered {answer.status}")
            if len(self.waits) % _LOOK == 1:  # to look costs the server some milliseconds
                self.memory = max(self.memory, resident(self._server.process.pid))
            lain = time.perf_counter()
        connection.close()


def resident(process: int) -> float:
    """Memory of a process and those that it has started in MB, what they share counted once."""
    shares = [Path(f"/proc/{each}/smaps_rollup").read_text() for each in family(process)]
    return sum(int(share.partition("\nPss:")[2].split()[0]) for share in shares) * 1024 / 1e6


def stolen(process: int) -> float:
    """Seconds of a process's cores that the host gave to others, on average ("steal" in proc(5))."""
    cores = os.sched_getaffinity(process)
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    ticks = [int(line[8]) for line in lines if line[0] in {f"cpu{core}" for core in cores}]
    return statistics.fmean(ticks) / os.sysconf("SC_CLK_TCK")


def backlog(port: int) -> float:
    """`voisin_backlog_requests`, once nothing is under way."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(float(line.split()[1]) for line in lines if line.startswith("voisin_backlog_requests "))


def table(levels: list[Level], capacity: float, where: str) -> list[Row]:
    """A row for each number and multiple; ratios are against the level at capacity."""
    columns = {
        "answered": ("requests/s", lambda each: each.answered),
        "answered, of the server's processor": ("requests/s", lambda each: each.answered_of_processor),
        "answered, wait p50": ("ms", lambda each: each.wait(200, 50)),
        "answered, wait p99": ("ms", lambda each: each.wait(200, 99)),
        "refused (429)": ("requests/s", lambda each: each.record.statuses.get(429, 0) / each.record.seconds),
        "refused, wait p50": ("ms", lambda each: each.wait(429, 50)),
        "refused, wait p99": ("ms", lambda each: each.wait(429, 99)),
        "health, wait p99": ("ms", lambda each: float(np.percentile(each.health, 99)) * 1e3),
        "health, longest wait": ("ms", lambda each: max(each.health) * 1e3),
        "who asks for health, longest oversleep": ("ms", lambda each: each.asleep * 1e3),
        "the server's cores, taken by the host": ("%", lambda each: each.stolen * 100),
        "server's memory": ("MB", lambda each: each.memory),
    }
    by: dict[float, list[Level]] = {}
    for each in levels:
        by.setdefault(each.multiple, []).append(each)
    found: list[Row] = []
    for name, (unit, value) in columns.items():
        peer = statistics.median(map(value, by[1.0])) if 1.0 in by else math.nan
        for multiple, some in by.items():
            values = [value(each) for each in some]
            median = statistics.median(values)
            found.append(
                Row(
                    question=f"fr-en, capacity {capacity:.1f}/s, {where}: {name}",
                    side=f"{multiple:g}x",
                    unit=unit,
                    median=median,
                    lowest=min(values),
                    highest=max(values),
                    peer=PEER,
                    ratio=median / peer if peer else math.nan,
                )
            )
    return found
