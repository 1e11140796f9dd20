"""Clients that do not play fair: heads and bodies that never end, too many connections, answers left unread.

What a client may take of us is bounded in time, bytes and file descriptors. The bounds are kept here, below
HTTP, but for the body's time: `hurried` keeps it, above, where the refusal can speak the route's dialect.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
from litestar.types import HTTPReceiveMessage, Receive, WebSocketReceiveMessage
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.errors import Problem
from service.problems import details

WHOLE = "voisin.whole"
"""In the scope of a request whose body arrived with its head, or soon after: nobody has to be hurried."""
MOST_HEAD = 65_536  # bytes of request line and headers
_MOST_AFTER_ANSWER = 64 * 2**20  # bytes still read of a body that was refused, so that the refusal is read
_FAREWELL = 1.0  # seconds for a client to read why it was turned away
_SPARE = 32  # file descriptors for logs, bundles and the like that are opened later


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with an eye on the clock. A request whose head comes in one piece costs nothing."""

    seconds: ClassVar[float] = 30.0
    most: ClassVar[int] = 2**31
    most_bytes: ClassVar[int] = 2**31
    refused: ClassVar[Callable[[], None]] = lambda: None

    _timer: TimerHandle | None = None
    _running: RequestResponseCycle | None = None
    _away = False
    _in_head = True
    _incomplete = False
    _received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            type(self).refused()
            detail = f"{self.most} connections are open: no file descriptor is left for more"
            self._turn_away(Problem(503, "too_many_connections", detail, headers={"retry-after": "1"}))
            return
        self._timer = self.loop.call_later(self.seconds, self._head_is_late)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        # of pipelined requests uvicorn tells the last that the client is gone; told must be who is at work
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._away or self.transport.is_closing():
            return
        super().data_received(data)
        if self._incomplete:
            self._received += len(data)
            self._check()

    def on_message_begin(self) -> None:
        self._in_head = self._incomplete = True
        self._received = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._calm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._incomplete = False
        self._calm()
        super().on_message_complete()
        self.scope[WHOLE] = True  # type: ignore[literal-required]

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._incomplete and self._timer is None and not self.transport.is_closing():
            # answered before it was read, e.g. 413: a client that is still sending would not see a reset
            self._timer = self.loop.call_later(self.seconds, self.transport.close)

    def _check(self) -> None:
        """More of this message is to come: how long, how much?"""
        if self._in_head:
            if self._received > MOST_HEAD:
                detail = f"the head of the request is longer than {MOST_HEAD} bytes"
                self._turn_away(Problem(431, "head_too_large", detail, limit=MOST_HEAD))
            elif self._timer is None:
                self._timer = self.loop.call_later(self.seconds, self._head_is_late)
        elif self.cycle is not None and self.cycle.response_complete:
            self.headers.clear()  # trailers
            if self._received > _MOST_AFTER_ANSWER:
                self.transport.close()
        elif self._received > self.most_bytes:  # not a body: that is counted above; extensions and trailers
            self.transport.abort()

    def _head_is_late(self) -> None:
        self._timer = None
        if not self._incomplete:  # not a byte came: nobody is there to be told
            self.transport.close()
            return
        self._turn_away(too_slow("the head of the request", self.seconds))

    def _turn_away(self, problem: Problem) -> None:
        """Answer without the application, and hang up."""
        self._calm()
        body = msgspec.json.encode(details(problem, "none"))
        head = [STATUS_LINE[problem.status], b"content-type: application/problem+json\r\n"]
        for name, value in (problem.headers | {"connection": "close"}).items():
            head.append(f"{name}: {value}\r\n".encode())
        head.append(b"content-length: %d\r\n\r\n" % len(body))
        self._away = True
        self.transport.write(b"".join(head) + body)
        if len(self.connections) > self.most + _SPARE // 2:
            self.transport.close()
            return
        # a client that is still writing would be told of a reset, not of the reason: let it read first
        self.transport.write_eof()
        self._timer = self.loop.call_later(_FAREWELL, self.transport.close)

    def _calm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connection_class(
    *, seconds: float, most: int, body_bytes: int, refused: Callable[[], None]
) -> type[Connection]:
    """The protocol with its bounds.

    Args:
        seconds: for a head to arrive whole.
        most: connections at once.
        body_bytes: longest body; what else a message may have is as much again and a mebibyte.
        refused: called for each connection beyond `most`.
    """
    bounds = {"seconds": seconds, "most": most, "most_bytes": 2 * body_bytes + 2**20}
    return type("BoundConnection", (Connection,), bounds | {"refused": staticmethod(refused)})


def too_slow(what: str, seconds: float) -> Problem:
    detail = f"{what} did not arrive within {seconds:g} s (VOISIN_CLIENT_SECONDS)"
    return Problem(408, "too_slow", detail, limit=seconds, headers={"connection": "close"})


def hurried(receive: Receive, seconds: float) -> Receive:
    """`receive` that raises 408 where the body is not whole after `seconds`; what comes after it may wait."""
    until = asyncio.get_running_loop().time() + seconds
    whole = False

    async def receive_in_time() -> HTTPReceiveMessage | WebSocketReceiveMessage:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise too_slow("the body", seconds) from None
        whole = not message.get("more_body", False)
        return message

    return receive_in_time


def hang_up_on_silence(listener: socket.socket, seconds: float) -> None:
    """Have the kernel drop clients that leave an answer unread, or unacknowledged, for `seconds`.

    Accepted connections inherit the option (tcp(7), TCP_USER_TIMEOUT); systems without it go without.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, max(1, int(seconds * 1000)))


def most_connections(*, reserved: int) -> int:
    """How many connections this process has file descriptors for, after raising its limit as far as it may.

    Accepting a connection without one left would cut the client off without a word.

    Args:
        reserved: file descriptors that are wanted for other things, e.g. Redis.

    Raises:
        OSError: there is no room for even a few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return 2**31
    room = soft - len(os.listdir("/dev/fd")) - reserved - _SPARE
    if room < 8:
        raise OSError(f"{soft} file descriptors are too few; raise the limit (ulimit -n, LimitNOFILE)")
    return room
