"""What a handler gives back: bytes that are ready to send, or a stream of server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

import msgspec
from litestar.types import Receive, Scope, Send

from service.errors import ClientGone
from service.presence import while_connected
from service.trace import trace_of

JSON = "application/json"
_JSON = (b"content-type", JSON.encode())


class Answer:
    """A whole response. Slimmer than the framework's: the body is bytes already and headers are few."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        media_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = [
            _JSON if media_type is JSON else (b"content-type", media_type.encode("latin-1")),
            (b"content-length", b"%d" % len(body)),
        ]
        if headers:
            self.headers += [
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
            ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


class Json(Answer):
    """Any value msgspec can write."""

    __slots__ = ()

    def __init__(self, value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(msgspec.json.encode(value), status=status, headers=headers)


class Last(bytes):
    """The end of a stream, which is sent with the end of the response."""

    __slots__ = ()


class EventStream:
    """Server-sent events (HTML living standard, section 9.2). Each item of `frames` is whole frames.

    `close` is called once, however the stream ends: it is what stops the work behind it.
    """

    __slots__ = ("close", "frames")

    HEADERS = (
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # nginx would hold the pieces back
    )

    def __init__(self, frames: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        self.frames = frames
        self.close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._relay(send))
        except ClientGone:
            trace_of(scope).outcome = "cancelled"
        finally:
            self.close()

    async def _relay(self, send: Send) -> None:
        started = last = False
        async for frame in self.frames:  # to its end: one left before would be closed by a task of its own
            if not started:  # with the first frame, in one packet
                started = True
                await self._start(send)
            last = type(frame) is Last
            await send({"type": "http.response.body", "body": frame, "more_body": not last})
        if not started:
            await self._start(send)
        if not last:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(self.HEADERS)})


def event(name: str, data: object) -> bytes:
    """One frame: JSON has no raw line breaks, so one `data:` line always holds it."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))
