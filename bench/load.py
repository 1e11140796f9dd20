"""A load generator on raw sockets: keep-alive connections, each with one request in flight.

It builds the request once and looks only at the status line and the length of each answer, so that it costs
the server's machine as little as possible. It shares the cores with the server all the same: numbers are for
comparing two routes in one run, not for quoting alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import uvloop

_CHUNKED = b"transfer-encoding: chunked"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_END = 1000  # bytes of a stream that are kept
PATIENCE = 30.0
"""Seconds that the last answers may take."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a period of load gave; latencies in seconds, sorted."""

    requests: int
    seconds: float
    latencies: tuple[float, ...]
    processor: float = 0.0
    """Processor time of the server, in seconds, where its process was named."""
    firsts: tuple[float, ...] = ()
    """Of streams: seconds until the first piece of the body."""
    ends: tuple[bytes, ...] = ()
    """Of streams: the last bytes of the body."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def processor_rate(self) -> float:
        """Requests per second of the server's processor time."""
        return self.requests / self.processor

    def percentile(self, q: float) -> float:
        """Latency in milliseconds under which q percent of the answers came."""
        return float(np.percentile(np.asarray(self.latencies), q)) * 1e3


def request(path: str, *, host: str, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a keep-alive GET."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def post(path: str, body: str, *, host: str, fresh: bool = True) -> bytes:
    """The bytes of a keep-alive POST of JSON; a fresh answer is computed even where one is remembered."""
    raw = body.encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    lines += ["Cache-Control: no-cache"] * fresh
    lines += [f"Content-Length: {len(raw)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + raw


class _Lane(asyncio.Protocol):
    """One connection: sends a request, awaits the whole answer, sends the next, until the deadline."""

    def __init__(
        self, requests: Sequence[bytes], first: int, deadline: float, done: asyncio.Future[None]
    ) -> None:
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.ends: list[bytes] = []
        self._requests = requests
        self._at = first
        self._deadline = deadline
        self._done = done
        self._seen = b""
        self._sent = 0.0
        self._failure: str | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own does not derive from it
        self._send()

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head = self._seen.find(b"\r\n\r\n")
        if head < 0:
            return
        if not self._seen.startswith(b"HTTP/1.1 200"):
            self._end(f"the server answered {self._seen.splitlines()[0].decode('latin-1')}")
        elif _CHUNKED in self._seen[:head]:
            now = time.perf_counter()
            if len(self.firsts) == len(self.latencies) and len(self._seen) > head + 4:
                self.firsts.append(now - self._sent)
            if self._seen.endswith(_LAST_CHUNK):
                self.ends.append(self._seen[-_END:])
                self._next(now)
        elif len(self._seen) >= head + 4 + length(self._seen[:head]):
            self._next(time.perf_counter())

    def _next(self, now: float) -> None:
        self.latencies.append(now - self._sent)
        self._seen = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._failure is None:
            self._failure = "the server closed the connection"
        if self._failure:
            self._done.set_exception(RuntimeError(self._failure))
        else:
            self._done.set_result(None)

    def _send(self) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        if self._sent >= self._deadline:
            self._end("")
            return
        self._transport.write(self._requests[self._at % len(self._requests)])
        self._at += 1

    def _end(self, failure: str) -> None:
        assert self._transport is not None
        self._failure = failure
        self._transport.close()


def length(head: bytes) -> int:
    """Bytes of the body that follows a head."""
    start = head.lower().index(b"content-length:") + len(b"content-length:")
    return int(head[start:].split(b"\r", 1)[0])


async def _drive(host: str, port: int, requests: Sequence[bytes], concurrency: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    spread = len(requests) // concurrency or 1
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(concurrency)]
    lanes = [_Lane(requests, lane * spread, started + seconds, end) for lane, end in enumerate(ends)]
    following = iter(lanes)
    for _ in lanes:
        await loop.create_connection(following.__next__, host, port)
    await asyncio.wait_for(asyncio.gather(*ends), seconds + PATIENCE)
    elapsed = time.perf_counter() - started
    latencies = sorted(latency for lane in lanes for latency in lane.latencies)
    return Load(
        requests=len(latencies),
        seconds=elapsed,
        latencies=tuple(latencies),
        firsts=tuple(sorted(first for lane in lanes for first in lane.firsts)),
        ends=tuple(end for lane in lanes for end in lane.ends),
    )


def drive(
    host: str,
    port: int,
    requests: Sequence[bytes],
    *,
    concurrency: int,
    seconds: float,
    server: int | None = None,
) -> Load:
    """Send `requests` round and round over `concurrency` connections for `seconds`.

    Args:
        server: process id of the server, whose processor time is then told too.

    Raises RuntimeError on any answer but 200.
    """
    before = 0.0 if server is None else processor_seconds(server)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = runner.run(_drive(host, port, requests, concurrency, seconds))
    return load if server is None else replace(load, processor=processor_seconds(server) - before)


def processor_seconds(process: int) -> float:
    """Processor time of another process and those that it has started, all threads together (Linux).

    The number of a process's clock is made as clock_getcpuclockid(3) makes it.
    """
    return sum(time.clock_gettime((~each << 3) | 2) for each in family(process))


def family(process: int) -> list[int]:
    """A process and those that it has started, but for their own (Linux)."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *map(int, children)]
