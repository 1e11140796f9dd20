"""API keys: who may ask, how often, and how much at once. Off unless VOISIN_API_KEYS or its file is set.

A key is 32 random bytes, so a plain SHA-256 of it can be kept without salt or slow hashing: there is nothing
to guess. What is kept, in the variable and in the file alike, is a line for each key:

    NAME SHA256 [scopes=use,metrics] [rate=600] [concurrent=8]

`rate` is in requests a minute, of which a minute's worth may come at once; `concurrent` bounds the requests
being answered. The limits are of this process: with n processes behind one address, n times as much.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from service.errors import Problem
from service.settings import SettingsError

logger = logging.getLogger("voisin")

SCOPES = ("use", "metrics")
PREFIX = "voisin_"  # so that scanners of leaked secrets can know one when they see it
LOOK_SECONDS = 1.0  # how often the file may be looked at

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST = 1000
_LONGEST = 512  # of a key as presented: more is not hashed


@dataclass(frozen=True, slots=True)
class Key:
    """One line: a name for people and logs, and the hash of the key."""

    name: str
    digest: bytes
    scopes: frozenset[str] = frozenset({"use"})
    rate: int | None = None
    concurrent: int | None = None


class Meter:
    """What a key has used. `left` is the token bucket, in requests."""

    __slots__ = ("at", "left", "running")

    def __init__(self, now: float, left: float) -> None:
        self.at = now
        self.left = left
        self.running = 0


class Pass:
    """A request that was let in. Give it back when the request is over."""

    __slots__ = ("_meter", "name")

    def __init__(self, name: str, meter: Meter) -> None:
        self.name = name
        self._meter: Meter | None = meter

    def release(self) -> None:
        """A second call is a no-op."""
        if self._meter is not None:
            self._meter.running -= 1
            self._meter = None


def digest_of(key: str) -> bytes:
    """SHA-256 of a key as it was presented."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def new_key() -> str:
    """A key nobody can guess: 256 bits from the operating system."""
    return PREFIX + secrets.token_urlsafe(32)


def parse(text: str, source: str) -> list[Key]:
    """Keys from lines (or entries with `;` between them); `#` begins a comment.

    Raises:
        SettingsError: names source and line, never what the line holds: it may be a key by mistake.
    """
    keys = [
        _parse_line(line, f"{source}, line {number}")
        for number, whole in enumerate(text.splitlines(), 1)
        for line in whole.partition("#")[0].split(";")
        if line.strip()
    ]
    if not keys:
        raise SettingsError(f"{source}: holds no key (python -m service keys new NAME makes one)")
    if len(keys) > _MOST:
        raise SettingsError(f"{source}: holds {len(keys)} keys; at most {_MOST}")
    _check_twins(keys, source)
    return keys


def _check_twins(keys: list[Key], source: str) -> None:
    for values in ([key.name for key in keys], [key.digest for key in keys]):
        if len(set(values)) < len(values):
            raise SettingsError(f"{source}: two keys have the same name or the same hash")


def _parse_line(line: str, place: str) -> Key:
    name, *rest = line.split()
    if not _NAME.fullmatch(name) or not rest or not _DIGEST.fullmatch(rest[0]):
        raise SettingsError(
            f"{place}: must be NAME SHA256 [scopes=...] [rate=...] [concurrent=...], where SHA256 is 64 hex "
            "digits, not the key itself (python -m service keys new NAME makes both)"
        )
    options = dict(option.partition("=")[::2] for option in rest[1:])
    scopes = frozenset(options.pop("scopes", "use").split(","))
    rate, concurrent = (_count(options.pop(name, None), name, place) for name in ("rate", "concurrent"))
    if options or not scopes <= set(SCOPES):
        raise SettingsError(f"{place}: has scopes of {', '.join(SCOPES)}, rate and concurrent, nothing else")
    return Key(name, bytes.fromhex(rest[0]), scopes, rate, concurrent)


def _count(text: str | None, name: str, place: str) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**6:
        raise SettingsError(f"{place}: {name} must be a whole number from 1 to 1000000")
    return int(text)


class Keys:
    """The keys in force, and what each has used.

    The file is looked at again when it has changed, at most once a second, so keys are added and revoked
    without a restart. A file that has become unreadable changes nothing but the log: locking everybody out,
    or letting everybody in, because of a typing error would be worse.
    """

    def __init__(self, text: str, path: Path | None, *, clock: Callable[[], float] = monotonic) -> None:
        """
        Args:
            text: VOISIN_API_KEYS.
            path: VOISIN_API_KEYS_FILE.

        Raises:
            SettingsError: either cannot be read, or has no key.
        """
        self._fixed = parse(text, "VOISIN_API_KEYS") if text else []
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._seen = self._stamp()
        self._meters: dict[bytes, Meter] = {}
        self._keys = self._read()

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def _stamp(self) -> tuple[int, int, int] | None:
        """What changes when the file does; a Kubernetes Secret is swapped by a link, hence the inode."""
        if self._path is None:
            return None
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> list[Key]:
        if self._path is None:
            return self._fixed
        source = f"VOISIN_API_KEYS_FILE={self._path}"
        try:
            text = self._path.read_text("utf-8")
        except OSError as error:
            raise SettingsError(f"{source}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{source}: is not UTF-8") from error
        keys = [*self._fixed, *parse(text, source)]
        _check_twins(keys, source)
        return keys

    def _look(self, now: float) -> None:
        if self._path is None or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = self._read()
        except SettingsError as error:
            # its text has the file and the line, not what stands there
            logger.error("api keys not reloaded", extra={"data": {"reason": str(error)}})
            return
        # a key that stays keeps its meter, also under another name
        kept = {key.digest for key in self._keys}
        self._meters = {digest: meter for digest, meter in self._meters.items() if digest in kept}
        logger.info("api keys reloaded", extra={"data": {"keys": len(self._keys)}})

    def find(self, presented: str) -> Key | None:
        """The key of that text. Every hash is compared, each in constant time."""
        if len(presented) > _LONGEST:
            return None
        digest = digest_of(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def admit(self, presented: str, scope: str) -> Pass:
        """Let a request in.

        Raises:
            Problem: 401 without a known key, 403 without the scope, 429 with Retry-After beyond a limit.
        """
        now = self._clock()
        self._look(now)
        key = self.find(presented) if presented else None
        if key is None:
            code = "invalid_api_key" if presented else "missing_api_key"
            detail = (
                "this API key is not known"
                if presented
                else "an API key is needed: send Authorization: Bearer KEY, or X-API-Key"
            )
            raise Problem(401, code, detail, headers={"www-authenticate": "Bearer"})
        if scope not in key.scopes:
            raise Problem(403, "insufficient_scope", f"this API key has no scope {scope}")
        meter = self._meters.get(key.digest)
        if meter is None:
            meter = self._meters[key.digest] = Meter(now, key.rate or 0)
        if key.concurrent is not None and meter.running >= key.concurrent:
            raise _limited(
                "too_many_at_once", f"this API key may have {key.concurrent} requests under way", 1
            )
        if key.rate is not None:
            _spend(meter, key.rate, now)
        meter.running += 1
        return Pass(key.name, meter)


def _spend(meter: Meter, rate: int, now: float) -> None:
    """Take one request from the bucket, which fills at `rate` a minute and holds a minute's worth."""
    meter.left = min(rate, meter.left + (now - meter.at) * rate / 60)
    meter.at = now
    if meter.left < 1:
        wait = math.ceil((1 - meter.left) * 60 / rate)
        raise _limited("rate_limited", f"this API key may send {rate} requests a minute", wait)
    meter.left -= 1


def _limited(code: str, detail: str, wait: int) -> Problem:
    headers = {"retry-after": str(wait)}
    return Problem(429, code, f"{detail}; retry in {wait} s", headers=headers, outcome="rejected")
