"""The Redis tier: reads of one turn of the loop travel as one MGET, writes as one pipeline; it fails open."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Coroutine
from time import monotonic, perf_counter
from typing import Any

from redis._parsers import _AsyncRESP3Parser
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError

from service.metrics import Metrics

logger = logging.getLogger("voisin")

PREFIX = "voisin:1:"  # 1: the form of the envelope below
_MOST_UNWRITTEN = 1024
_FAILURES_TO_OPEN = 2


def seal(key: str, value: bytes) -> bytes:
    """Put a checksum of key and value before the value: what a shared Redis gives back may be anything."""
    return zlib.crc32(value, zlib.crc32(key.encode())).to_bytes(4, "big") + value


def unseal(key: str, sealed: bytes) -> bytes | None:
    """The value, or None where it is not what was sealed under this key."""
    value = sealed[4:]
    return value if len(sealed) > 4 and seal(key, value) == sealed else None


class RedisStore:
    """A store that never costs more than `timeout` and never raises.

    After two failures in a row the breaker opens: nothing is asked of Redis until a ping in the background
    succeeds, so an outage costs two timeouts, not one a request. Pings begin at the first failure, so what is
    said of Redis comes true again even when nobody asks. A Redis that answers but takes no writes
    (it is full, or a replica) is still read; writing is tried again from time to time.
    """

    def __init__(
        self, url: str, *, ttl: int, timeout: float, metrics: Metrics, probe_seconds: float = 1.0
    ) -> None:
        """
        Raises:
            ValueError: `url` is not a Redis URL.
        """
        self._client = Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # once: a pooled connection may have died with a Redis that is back already
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
            max_connections=64,
            # hiredis, where installed, allocates what a reply only claims to hold: 16 GiB for ten bytes
            parser_class=_AsyncRESP3Parser,
        )
        self._ttl = ttl
        self._timeout = timeout
        self._metrics = metrics
        self._probe_seconds = probe_seconds
        self._reads: dict[str, asyncio.Future[bytes | None]] = {}
        self._writes: dict[str, bytes] = {}
        self._failures = 0
        self._open = False
        self._probing = False
        self._refuses_writes = False
        self._write_again_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        """Whether Redis answered when it was last asked."""
        return not self._open and not self._failures

    async def start(self) -> None:
        """Try the connection, so that the log says at once when the URL is wrong."""
        await self._ask(self._client.ping())

    async def get(self, key: str) -> bytes | None:
        if self._open:
            return None
        waiting = self._reads.get(key)
        if waiting is None:
            waiting = asyncio.get_running_loop().create_future()
            if not self._reads:
                self._spawn("read", self._read())
            self._reads[key] = waiting
        return await asyncio.shield(waiting)

    async def set(self, key: str, value: bytes) -> None:
        self.keep(key, value)

    def keep(self, key: str, value: bytes) -> None:
        """`set`, which returns before the value is written: nobody waits for a cache to remember."""
        refused = self._refuses_writes and monotonic() < self._write_again_at
        if self._open or refused or len(self._writes) >= _MOST_UNWRITTEN:
            self._metrics.redis_writes["refused" if refused else "lost"].inc()
            return
        if not self._writes:
            self._spawn("write", self._write())
        self._writes[key] = value

    async def delete(self, key: str) -> None:
        self._writes.pop(key, None)
        if not self._open:
            await self._ask(self._client.delete(PREFIX + key))

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def flush(self) -> None:
        """Wait until what was set is written, or lost."""
        while writing := [task for task in self._tasks if task.get_name() == "write"]:
            await asyncio.gather(*writing, return_exceptions=True)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self) -> None:
        """Fetch what every request of this turn of the loop wants, in one round trip."""
        await asyncio.sleep(0)
        wanted, self._reads = self._reads, {}
        values = None
        start = perf_counter()
        try:
            values = await self._ask(self._client.mget([PREFIX + key for key in wanted]))
        finally:
            self._metrics.redis_read.observe(perf_counter() - start)
            self._resolve(wanted, values)

    def _resolve(self, wanted: dict[str, asyncio.Future[bytes | None]], values: object) -> None:
        found = values if isinstance(values, list) and len(values) == len(wanted) else None
        for place, (key, future) in enumerate(wanted.items()):
            sealed = found[place] if found is not None else None
            value = unseal(key, sealed) if isinstance(sealed, bytes) else None
            result = "error" if found is None else "miss" if value is None else "hit"
            self._metrics.cache["redis", result].inc()
            if not future.done():
                future.set_result(value)

    async def _write(self) -> None:
        await asyncio.sleep(0)
        values, self._writes = self._writes, {}
        pipeline = self._client.pipeline(transaction=False)
        for key, value in values.items():
            pipeline.set(PREFIX + key, seal(key, value), ex=self._ttl)
        start = perf_counter()
        answers = await self._ask(pipeline.execute(raise_on_error=False))
        self._metrics.redis_write.observe(perf_counter() - start)
        self._note_writes(len(values), answers if isinstance(answers, list) else None)

    def _note_writes(self, count: int, answers: list[object] | None) -> None:
        if answers is None:
            self._metrics.redis_writes["lost"].inc(count)
            return
        refusals = [answer for answer in answers if isinstance(answer, Exception)]
        self._metrics.redis_writes["refused"].inc(len(refusals))
        self._metrics.redis_writes["stored"].inc(count - len(refusals))
        if refusals:
            self._write_again_at = monotonic() + self._probe_seconds
            if not self._refuses_writes:
                # the class says it (OutOfMemoryError, ReadOnlyError); the text may quote keys
                data = {"reason": type(refusals[0]).__name__}
                logger.warning("redis refuses writes", extra={"data": data})
        elif self._refuses_writes:
            logger.warning("redis takes writes again")
        self._refuses_writes = bool(refusals)

    async def _ask(self, command: Awaitable[Any]) -> object:
        """The answer of a command, or None after counting the failure."""
        try:
            async with asyncio.timeout(self._timeout):
                answer: object = await command
        except Exception as error:  # bytes that are no Redis protocol raise whatever the parser stumbled on
            self._failed(error)
            return None
        self._failures = 0
        return answer

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= _FAILURES_TO_OPEN and not self._open:
            self._open = True
            logger.warning("redis is away", extra={"data": {"reason": type(error).__name__}})
        if not self._probing:
            self._probing = True
            self._spawn("probe", self._probe())

    async def _probe(self) -> None:
        while not self.up:
            await asyncio.sleep(self._probe_seconds)
            try:
                async with asyncio.timeout(self._timeout):
                    if not await self._client.ping():  # something answered, but not a Redis
                        continue
            except Exception:  # as in `_ask`; were it to end here, Redis would be away for ever
                continue
            self._failures = 0
            if self._open:
                self._open = False
                logger.warning("redis is back")
        self._probing = False
