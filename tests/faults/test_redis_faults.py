"""Whatever Redis does, every answer is right, in time, and 200. One service goes through all of it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from service.metrics import Metrics
from service.redis_store import PREFIX, RedisStore
from tests.faults.watching import FRESH, meaning, questions, until
from tests.service.conftest import RedisServer
from tests.service.making import HOST, Service, serve

ASKED = questions(24)
PASSWORD = "s3same"
TIMEOUT = 0.25  # wide enough for a busy machine to answer in


class Front(socketserver.ThreadingTCPServer):
    """Stands before Redis: passes on, as slowly as told, or says the same bytes to whatever is asked."""

    allow_reuse_address = True
    daemon_threads = True
    said: bytes | None = None
    upstream = 0
    delay = 0.0

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(socketserver.BaseRequestHandler):
    server: Front

    def handle(self) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            upstream = None
            while data := self.request.recv(65536):
                if self.server.said is not None:
                    self.request.sendall(self.server.said)
                    continue
                if upstream is None:
                    upstream = stack.enter_context(socket.create_connection((HOST, self.server.upstream)))
                upstream.sendall(data)
                answer = upstream.recv(1 << 20)
                time.sleep(self.server.delay)
                if not answer:
                    return
                self.request.sendall(answer)


@contextlib.contextmanager
def standing_front() -> Iterator[Front]:
    with Front((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@dataclass
class World:
    """A service without a memory tier, so that every look-up goes to Redis, by way of the front."""

    service: Service
    front: Front
    server: RedisServer
    right: list[tuple[int, bytes]]

    def client(self) -> redis.Redis:
        return redis.Redis(host=HOST, port=self.server.port, password=PASSWORD)

    def start(self) -> None:
        self.server.start()
        with redis.Redis(host=HOST, port=self.server.port) as client:
            client.config_set("requirepass", PASSWORD)

    def ask_all(self) -> None:
        """Every question has its right answer, and nobody calls for help."""
        assert [meaning(each.of(self.service)) for each in ASKED] == self.right
        assert self.service.get("/health/ready").status == 200

    def fill(self) -> None:
        """Until Redis holds every answer; a write that came too late is made again."""

        def full() -> bool:
            self.ask_all()
            return self.keys() == len(ASKED)

        until(full)

    def keys(self) -> int:
        with self.client() as client:
            return int(client.dbsize())

    def wait_up(self, up: float) -> None:
        until(lambda: self.service.metric("voisin_redis_up") == up)

    def messages(self) -> list[str]:
        return [line.get("message", "") for line in self.service.lines()]


@pytest.fixture(scope="module")
def standing(
    models: Path, tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("redis")
    server = RedisServer(program("redis-server"), folder)
    with standing_front() as front:
        url = f"redis://:{PASSWORD}@{HOST}:{front.port}/0"
        with serve(
            models, folder / "log", redis_url=url, cache_entries=0, redis_timeout_seconds=TIMEOUT
        ) as service:
            # nothing listens yet: these answers owe nothing to any cache
            world = World(service, front, server, [meaning(each.of(service)) for each in ASKED])
            assert {status for status, _ in world.right} == {200}
            yield world
            server.kill()
            assert not [line for line in service.lines() if line["level"] == "error"]
            assert PASSWORD not in service.log.read_text()


@pytest.fixture
def world(standing: World) -> Iterator[World]:
    """Redis up, empty, and known to be up."""
    standing.server.kill()
    standing.start()
    standing.front.said, standing.front.delay, standing.front.upstream = None, 0.0, standing.server.port
    standing.wait_up(1)
    with standing.client() as client:
        client.flushall()
    yield standing
    standing.ask_all()


def test_killed_and_restarted_empty(world: World) -> None:
    world.fill()
    assert ASKED[0].of(world.service).cache == "hit"
    world.server.kill()
    world.start()
    # the pooled connection is dead and the new Redis knows nothing: neither is anybody's trouble
    world.ask_all()
    world.wait_up(1)
    world.fill()
    assert ASKED[0].of(world.service).cache == "hit"


def test_killed_in_the_middle_of_reads_and_writes(world: World) -> None:
    for turn in range(3):
        killer = threading.Timer(0.02 * (1 + turn), world.server.kill)
        killer.start()
        world.ask_all()
        killer.join()
        world.start()
        world.wait_up(1)


def test_full(world: World) -> None:
    """It answers reads and refuses writes: what it has is still used, and it is not called away."""
    kept = ASKED[0]
    kept.of(world.service)
    until(lambda: kept.of(world.service).cache == "hit")
    before = world.service.metric("voisin_cache_writes_total", result="refused")
    with world.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        world.ask_all()
        world.ask_all()
        assert kept.of(world.service).cache == "hit"
        assert client.dbsize() == 1
        assert world.service.metric("voisin_redis_up") == 1
        refused = world.service.metric("voisin_cache_writes_total", result="refused") - before
        assert refused == 2 * (len(ASKED) - 1)
        assert world.messages().count("redis refuses writes") == 1
        client.config_set("maxmemory", 0)

        def stored() -> bool:
            ASKED[5].of(world.service, **FRESH)
            return world.keys() == 2

        until(stored)


def test_wrong_password(world: World) -> None:
    with world.client() as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=True)
        world.ask_all()
        world.wait_up(0)
        world.ask_all()
        reasons = [line["reason"] for line in world.service.lines() if line.get("message") == "redis is away"]
        assert reasons[-1] == "AuthenticationError"
        client.config_set("requirepass", PASSWORD)
        world.wait_up(1)


def test_slow(world: World) -> None:
    """Slower than the timeout: a few requests pay for finding out, the others are spared."""

    def errors() -> float:
        return world.service.metric("voisin_cache_requests_total", tier="redis", result="error")

    world.ask_all()
    before = errors()
    world.front.delay = 4 * TIMEOUT
    world.ask_all()
    assert 1 <= errors() - before <= 4
    world.wait_up(0)
    world.front.delay = 0.0
    world.wait_up(1)


def test_answers_of_another_question_are_not_believed(world: World) -> None:
    """Values swapped between keys, cut, or flipped are misses."""
    world.fill()
    with world.client() as client:
        keys = sorted(client.scan_iter(PREFIX + "*"))
        values = client.mget(keys)
        for wrong in (
            [*values[1:], values[0]],
            [value[:-1] for value in values],
            [value[:4] + b"[]" for value in values],
            [b""] * len(values),
        ):
            client.mset(dict(zip(keys, wrong, strict=True)))
            world.ask_all()


def test_a_value_of_another_type(world: World) -> None:
    world.fill()
    with world.client() as client:
        for key in list(client.scan_iter(PREFIX + "*")):
            client.delete(key)
            client.rpush(key, "a", "list")
    world.ask_all()


def test_stopped_and_gone_on(world: World) -> None:
    """SIGSTOP in the middle: late replies of the woken Redis are not taken for those of later questions."""
    world.fill()
    for _ in range(2):
        world.server.signal(signal.SIGSTOP)
        world.ask_all()
        world.server.signal(signal.SIGCONT)
        world.ask_all()
        world.wait_up(1)


GARBAGE = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "zeroes": bytes(64),
    "noise": bytes(range(256)) * 4,
    "always fine": b"+OK\r\n",
    "always pong": b"+PONG\r\n",
    "always one": b":1\r\n",
    "errors": b"-ERR no\r\n-ERR no\r\n-ERR no\r\n",
    "an error that is not UTF-8": b"-ERR \xff\xfe\r\n",
    "an endless list": b"*2147483647\r\n$1\r\na\r\n",
    "a huge string": b"$536870911\r\nabc",
    "lists in lists": b"*1\r\n" * 3000,
    "nothing at all": b"",
    "half an answer": b"*1\r\n$10\r\nabc",
    "a wrong value": b"*1\r\n$6\r\nabcdef\r\n",
    "a map": b"%1\r\n+a\r\n:1\r\n",
    "a push message": b">2\r\n+invalidate\r\n*1\r\n+a\r\n",
}


def test_garbage(world: World) -> None:
    world.ask_all()
    for name in ("noise", "always fine", "lists in lists"):
        world.front.said = GARBAGE[name]
        world.ask_all()


@pytest.mark.parametrize("name", GARBAGE)
def test_every_kind_of_garbage_is_a_miss_and_is_got_over(name: str, redis_server: RedisServer) -> None:
    """Below HTTP, where each kind can be met with the breaker closed."""

    async def meet(front: Front) -> None:
        store = RedisStore(
            f"redis://{HOST}:{front.port}/0", ttl=60, timeout=0.1, metrics=Metrics(), probe_seconds=0.01
        )
        front.upstream = redis_server.port
        await store.start()
        for _ in range(1000):  # a busy machine may be later than the store waits
            await store.set("key", b'"value"')
            await store.flush()
            if await store.get("key") == b'"value"':
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("what was written is not there")
        front.said = GARBAGE[name]
        for _ in range(4):
            assert await store.get("key") is None
            await store.set("other", b'"lost"')
            await store.flush()
        front.said = None
        for _ in range(1000):
            if await store.get("key") == b'"value"':
                break
            await asyncio.sleep(0.01)
        assert store.up
        await store.close()

    with standing_front() as front:
        asyncio.run(meet(front))


def test_one_failure_is_got_over_without_a_request(redis_server: RedisServer) -> None:
    """A single time-out does not open the breaker; nor may it leave Redis called away until somebody asks."""

    async def meet(front: Front) -> None:
        store = RedisStore(
            f"redis://{HOST}:{front.port}/0", ttl=60, timeout=0.1, metrics=Metrics(), probe_seconds=0.01
        )
        front.upstream = redis_server.port
        await store.start()
        front.said = b""
        assert await store.get("key") is None
        assert not store.up
        front.said = None
        for _ in range(3000):
            if store.up:
                break
            await asyncio.sleep(0.01)
        assert store.up
        await store.close()

    with standing_front() as front:
        asyncio.run(meet(front))


def test_the_questions_are_all_different() -> None:
    """Or the counts above would mean nothing."""
    assert len({(each.method, each.path, str(each.body)) for each in ASKED}) == len(ASKED)
