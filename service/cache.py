"""The two tiers of the answer cache, behind one protocol: memory (always there) and Redis (shared)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Protocol

import msgspec

# Counted beside key and value: dictionary slot, list node, two bytes objects.
_OVERHEAD = 200


def cache_key(task: str, revision: str, request: object) -> str:
    """The name of an answer: who gives it, with which weights, to what. Equal requests give equal keys.

    `request` is the canonical request: a value msgspec can write, with every default filled in.
    The parts are encoded as one JSON array, so no text can imitate a border between two of them.
    """
    return hashlib.sha256(msgspec.json.encode([task, revision, request], order="deterministic")).hexdigest()


class Store(Protocol):
    """Where answers are kept. A store never raises: what it cannot do is a miss, or is not done."""

    async def get(self, key: str) -> bytes | None:
        """The value of `key`, or None."""

    async def set(self, key: str, value: bytes) -> None:
        """Keep `value`, replacing what was there. It may be dropped at any time."""

    async def delete(self, key: str) -> None:
        """Forget `key`. If there is no such key this is a no-op."""

    async def close(self) -> None:
        """Give back connections."""


class MemoryStore:
    """The least recently used answers leave first; bounded by bytes and by entries."""

    def __init__(self, *, max_bytes: int, max_entries: int) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._values)

    def look_up(self, key: str) -> bytes | None:
        """`get` for callers who cannot afford a turn of the event loop."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def keep(self, key: str, value: bytes) -> None:
        """`set`, at once. A value larger than an eighth of the store is not kept: it would empty it."""
        if key in self._values:
            self.forget(key)
        weight = len(key) + len(value) + _OVERHEAD
        if weight > self._max_bytes // 8 or not self._max_entries:
            return
        self._values[key] = value
        self.size += weight
        while self.size > self._max_bytes or len(self._values) > self._max_entries:
            oldest, dropped = self._values.popitem(last=False)
            self.size -= len(oldest) + len(dropped) + _OVERHEAD

    def forget(self, key: str) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self.size -= len(key) + len(value) + _OVERHEAD

    async def get(self, key: str) -> bytes | None:
        return self.look_up(key)

    async def set(self, key: str, value: bytes) -> None:
        self.keep(key, value)

    async def delete(self, key: str) -> None:
        self.forget(key)

    async def close(self) -> None:
        self._values.clear()
        self.size = 0
