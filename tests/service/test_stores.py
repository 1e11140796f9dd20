"""One suite, both tiers: a store is a store. Redis is a real one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING

import pytest

from service.cache import MemoryStore, Store, cache_key
from service.metrics import Metrics
from service.redis_store import PREFIX, RedisStore, seal, unseal

if TYPE_CHECKING:
    from tests.service.conftest import RedisServer

Suite = Callable[[Store], Awaitable[None]]


def new_redis(server: RedisServer, **options: float) -> RedisStore:
    given = {"ttl": 60, "timeout": 0.5, "probe_seconds": 0.05} | options
    return RedisStore(server.url, metrics=Metrics(), **given)  # type: ignore[arg-type]


def run(kind: str, request: pytest.FixtureRequest, suite: Suite) -> None:
    """The suite over a store of its own, on a loop of its own."""

    async def main() -> None:
        store: Store
        if kind == "memory":
            store = MemoryStore(max_bytes=1_000_000, max_entries=1000)
        else:
            store = new_redis(request.getfixturevalue("redis_server"))
        try:
            await suite(store)
        finally:
            await store.close()

    asyncio.run(main())


async def settle(store: Store) -> None:
    if isinstance(store, RedisStore):
        await store.flush()


both = pytest.mark.parametrize("kind", ["memory", "redis"])


@both
def test_what_was_set_is_got(kind: str, request: pytest.FixtureRequest) -> None:
    async def suite(store: Store) -> None:
        assert await store.get("a") is None
        await store.set("a", b"\x00one\xff")
        await settle(store)
        assert await store.get("a") == b"\x00one\xff"
        assert await store.get("b") is None

    run(kind, request, suite)


@both
def test_the_last_value_stays(kind: str, request: pytest.FixtureRequest) -> None:
    async def suite(store: Store) -> None:
        await store.set("a", b"one")
        await store.set("a", b"two")
        await settle(store)
        assert await store.get("a") == b"two"
        await store.set("a", b"three")
        await settle(store)
        assert await store.get("a") == b"three"

    run(kind, request, suite)


@both
def test_forgetting_is_idempotent(kind: str, request: pytest.FixtureRequest) -> None:
    async def suite(store: Store) -> None:
        await store.set("a", b"one")
        await settle(store)
        await store.delete("a")
        await store.delete("a")
        assert await store.get("a") is None

    run(kind, request, suite)


@both
def test_many_at_once(kind: str, request: pytest.FixtureRequest) -> None:
    async def suite(store: Store) -> None:
        await asyncio.gather(*(store.set(f"k{i}", b"%d" % i) for i in range(200)))
        await settle(store)
        found = await asyncio.gather(*(store.get(f"k{i % 250}") for i in range(500)))
        assert found == [b"%d" % (i % 250) if i % 250 < 200 else None for i in range(500)]

    run(kind, request, suite)


@both
def test_large_values(kind: str, request: pytest.FixtureRequest) -> None:
    async def suite(store: Store) -> None:
        value = bytes(range(256)) * 400
        await store.set("large", value)
        await settle(store)
        assert await store.get("large") == value

    run(kind, request, suite)


def test_memory_is_bounded_by_entries_and_forgets_the_least_recently_used() -> None:
    store = MemoryStore(max_bytes=1_000_000, max_entries=3)
    for key in "abc":
        store.keep(key, b"x")
    assert store.look_up("a") == b"x"
    store.keep("d", b"x")
    assert [key for key in "abcd" if store.look_up(key)] == ["a", "c", "d"]


def test_memory_is_bounded_by_bytes() -> None:
    store = MemoryStore(max_bytes=10_000, max_entries=1000)
    for number in range(500):
        store.keep(f"k{number}", b"x" * 100)
        assert store.size <= 10_000
    assert 20 < len(store) < 40
    assert store.look_up("k499") is not None
    store.keep("whale", b"x" * 5000)
    assert store.look_up("whale") is None
    assert store.look_up("k499") is not None


def test_memory_counts_what_it_replaces() -> None:
    store = MemoryStore(max_bytes=10_000, max_entries=10)
    for _ in range(100):
        store.keep("same", b"x" * 500)
    size = store.size
    store.forget("same")
    assert size < 1000
    assert store.size == 0


def test_memory_turned_off_keeps_nothing() -> None:
    for store in (MemoryStore(max_bytes=0, max_entries=9), MemoryStore(max_bytes=9999, max_entries=0)):
        store.keep("a", b"x")
        assert store.look_up("a") is None


def test_keys_know_task_revision_and_every_border() -> None:
    keys = {
        cache_key("translate", "r1", ["a", "b"]),
        cache_key("translate", "r1", ["a|b"]),
        cache_key("translate", "r1", [["a"], "b"]),
        cache_key("translate", "r2", ["a", "b"]),
        cache_key("complete", "r1", ["a", "b"]),
        cache_key("translate", "r1", ["a", 1]),
        cache_key("translate", "r1", ["a", "1"]),
    }
    assert len(keys) == 7
    assert cache_key("t", "r", ["é"]) == cache_key("t", "r", ["é"])


def test_a_seal_belongs_to_its_key() -> None:
    sealed = seal("a", b"value")
    assert unseal("a", sealed) == b"value"
    assert unseal("b", sealed) is None
    for damaged in (b"", sealed[:-1], sealed + b"x", b"garbage!", bytes([sealed[0] ^ 1]) + sealed[1:]):
        assert unseal("a", damaged) is None


def test_garbage_in_redis_is_a_miss(redis_server: RedisServer) -> None:
    async def main() -> None:
        store = new_redis(redis_server)
        await store.set("a", b"good")
        await store.flush()
        client = store._client
        await client.set(PREFIX + "b", b"\xff\xfenot ours")
        await client.set(PREFIX + "c", await client.get(PREFIX + "a"))
        await client.rpush(PREFIX + "d", "a", "list")
        assert await asyncio.gather(*map(store.get, "abcd")) == [b"good", None, None, None]
        assert store.up
        await store.close()

    asyncio.run(main())


def test_values_expire(redis_server: RedisServer) -> None:
    async def main() -> None:
        store = new_redis(redis_server, ttl=1)
        await store.set("a", b"short-lived")
        await store.flush()
        assert 0 < await store._client.pttl(PREFIX + "a") <= 1000
        await store.close()

    asyncio.run(main())


async def written(store: RedisStore, key: str, value: bytes) -> None:
    """Write until it can be read: a write may time out on a busy machine."""
    for _ in range(100):
        await store.set(key, value)
        await store.flush()
        if await store.get(key) == value:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("Redis does not keep what it is given")


def test_an_outage_costs_two_failures_not_one_a_request(redis_server: RedisServer) -> None:
    async def main() -> None:
        store = new_redis(redis_server, timeout=0.05)
        await written(store, "a", b"kept")
        redis_server.signal(signal.SIGSTOP)
        start = perf_counter()
        for _ in range(200):
            assert await store.get("a") is None
            await store.set("b", b"lost")
        # two reads and their writes time out; everything after is answered at once. One timeout a request
        # would be twenty seconds, and a busy machine adds its own delays to the few that remain
        assert perf_counter() - start < 5
        assert not store.up
        redis_server.signal(signal.SIGCONT)
        for _ in range(200):  # on a busy machine the first read after the outage may time out, too
            if store.up and await store.get("a") == b"kept":
                break
            await asyncio.sleep(0.02)
        assert await store.get("a") == b"kept"
        await store.close()

    asyncio.run(main())


def test_a_redis_that_never_was_fails_open() -> None:
    async def main() -> None:
        metrics = Metrics()
        store = RedisStore("redis://127.0.0.1:1/0", ttl=1, timeout=0.1, metrics=metrics, probe_seconds=9)
        await store.start()
        await store.set("a", b"x")
        await store.flush()
        assert await store.get("a") is None
        await store.delete("a")
        await store.close()

    asyncio.run(main())


def test_no_redis_url_is_refused() -> None:
    with pytest.raises(ValueError, match="redis://"):
        RedisStore("http://example.org", ttl=1, timeout=1, metrics=Metrics())
