"""How the event loop and the processes that decode talk: pickles (protocol 5), each after its length.

Both ends are one program, forked, over a pair of sockets that nobody else has. What a job shares with its
model (tokenizer, words, the model itself) was there before the fork and goes by name.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from copyreg import dispatch_table
from io import BytesIO
from typing import Any, Protocol

_LENGTH = struct.Struct("<I")
_READ = 1 << 18  # bytes at once


class Parted(Protocol):
    """A model, as far as its jobs refer to it."""

    @property
    def parts(self) -> dict[str, object]: ...


class Sender:
    """Writes what refers to parts of models.

    Args:
        models: by name; the other end has adopted the same.
    """

    def __init__(self, models: Mapping[str, Parted]) -> None:
        parts = [(part, (name, key)) for name, model in models.items() for key, part in model.parts.items()]
        self._names = {id(part): place for part, place in parts}
        self._parts = [part for part, _ in parts]  # their ids must stay theirs
        by_name = {type(part): self._by_name for part in self._parts}
        self._table: dict[type, Callable[[Any], Any]] = dispatch_table | by_name

    def _by_name(self, part: object) -> tuple[Callable[..., object], tuple[str, str]]:
        name = self._names.get(id(part))
        if name is None:
            raise pickle.PicklingError(f"a {type(part).__name__} of no model that decodes")
        return _part, name

    def framed(self, message: object) -> bytes:
        """A message, its length before it."""
        into = BytesIO()
        pickler = pickle.Pickler(into, 5)
        pickler.dispatch_table = self._table
        pickler.dump(message)
        return framed(into.getvalue())


def framed(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Messages out of the bytes of a stream, in whatever portions they come."""

    def __init__(self) -> None:
        self._room = bytearray(_READ)
        self._seen = bytearray()

    def receive(self, link: socket.socket) -> Iterator[Any] | None:
        """The messages that are whole with what can be read at once; None where the other end is closed.

        Raises:
            BlockingIOError: nothing can be read, of a socket that does not wait.
        """
        size = link.recv_into(self._room)
        return self.feed(memoryview(self._room)[:size]) if size else None

    def feed(self, data: bytes | memoryview) -> Iterator[Any]:
        """The messages that are whole with `data`."""
        self._seen += data
        start, end = 0, len(self._seen)
        while end - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._seen, start)
            first = start + _LENGTH.size
            if end - first < length:
                break
            start = first + length
            yield pickle.loads(self._seen[first:start])
        del self._seen[:start]


_adopted: dict[str, dict[str, object]] = {}


def adopt(models: Mapping[str, Parted]) -> None:
    """Read names of parts as those of these models, in this process."""
    _adopted.clear()
    _adopted.update({name: model.parts for name, model in models.items()})


def _part(model: str, key: str) -> object:
    return _adopted[model][key]
