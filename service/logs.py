"""One JSON object a line on stderr. Ids, names, numbers: never the text of a request, never a key."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

logger = logging.getLogger("voisin")

_REFUSALS = 10  # lines a second about requests that were refused


class JsonLines(logging.Formatter):
    """Log records as JSON; `extra={"data": {...}}` becomes members of the object."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "data", {}))
        if record.exc_info and record.exc_info[0]:
            # the type and the place, not the message: messages quote what users wrote
            line["exception"] = record.exc_info[0].__name__
            line["stack"] = _stack(record)
        return msgspec.json.encode(line).decode()


def _stack(record: logging.LogRecord) -> list[str]:
    places = []
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return places[-12:]


def configure(level: str) -> None:
    """Send this process's log to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("voisin", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())


class RequestLog:
    """The line of each request, written without the logging machinery, which would cost more than it.

    Of what is refused the first ten of a second leave a line. A full house refuses hundreds a second, and has
    better to do than to say so; the metrics count them all, and the next line says how many left none.
    """

    def __init__(self, *, every: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            every: log every request, and not only those that failed on our side.
            clock: in seconds.
        """
        self._every = every
        self._clock = clock
        self._encode = msgspec.json.Encoder().encode
        self._second = (0, "")
        self._refused = (0, 0)  # a second, and how many were refused in it
        self._unlogged = 0  # refusals since the last that left a line

    def wants(self, outcome: str) -> bool:
        """Whether a request that ended so leaves a line; asked once for each request."""
        if not self._every:
            return outcome == "error"
        return outcome != "rejected" or self._spared()

    def _spared(self) -> bool:
        second, before = self._refused
        now = int(self._clock())
        self._refused = (now, before + 1 if now == second else 1)
        if self._refused[1] <= _REFUSALS:
            return True
        self._unlogged += 1
        return False

    def write(self, status: int, outcome: str, line: dict[str, Any]) -> None:
        """`line` is ids, route, numbers; the caller has checked that it holds no text."""
        stamp = self._stamp(time.time())
        record: dict[str, Any] = {
            "time": stamp,
            "level": "error" if outcome == "error" else "info",
            "logger": "voisin.request",
        }
        record |= {"status": status, "outcome": outcome} | line
        if outcome == "rejected" and self._unlogged:
            record["unlogged"] = self._unlogged
            self._unlogged = 0
        sys.stderr.write(self._encode(record).decode() + "\n")

    def _stamp(self, now: float) -> str:
        second = int(now)
        if self._second[0] != second:
            self._second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        return f"{self._second[1]}.{int(now % 1 * 1000):03d}Z"
