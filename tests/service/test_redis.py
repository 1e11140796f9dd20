"""Two processes and one Redis, which dies, hangs and comes back."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.service.making import WORDS, Service, serve

if TYPE_CHECKING:
    from tests.service.conftest import RedisServer

TIMEOUT = 0.05


@pytest.fixture
def pair(models: Path, tmp_path: Path, redis_server: RedisServer) -> Iterator[tuple[Service, Service]]:
    """Two services over the same bundles and the same Redis."""
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(
                serve(
                    models,
                    tmp_path / f"{name}.log",
                    redis_url=redis_server.url,
                    redis_timeout_seconds=TIMEOUT,
                )
            )
            for name in ("first", "second")
        )
        yield first, second


def wait_redis(service: Service, up: float) -> None:
    for _ in range(200):
        if service.metric("voisin_redis_up") == up:
            return
        time.sleep(0.05)
    raise AssertionError(f"redis_up did not become {up}")


def test_two_processes_share_answers_of_every_task(
    pair: tuple[Service, Service], redis_server: RedisServer
) -> None:
    first, second = pair
    for stored, method, path, body in (
        (1, "GET", "/similar?word=king", None),
        (2, "POST", "/similar", {"positive": ["king", "woman"], "negative": ["man"]}),
        (3, "GET", "/complete?prompt=the+gran&lang=en", None),
        (5, "POST", "/translate", {"q": ["abc de", "fed"], "source": "fr", "target": "en"}),
    ):
        made = first.ask(method, path, body)
        assert made.cache == "miss"
        redis_server.wait_for(stored)  # the write is not waited for
        shared = second.ask(method, path, body)
        assert (shared.cache, shared.body) == ("hit", made.body)
    assert second.metric("voisin_cache_requests_total", tier="redis", result="hit") == 5
    assert second.metric("voisin_inference_duration_seconds_count", task="complete", model="text-en") == 0


def test_redis_dies_amid_two_hundred_requests_and_comes_back(
    pair: tuple[Service, Service], redis_server: RedisServer
) -> None:
    first, second = pair

    def ask(number: int) -> int:
        if number == 60:
            redis_server.kill()
        word = WORDS[number % len(WORDS)]
        if number % 4 == 0:
            return first.post("/complete", {"prompt": f"the {number}", "lang": "en", "max_tokens": 3}).status
        return first.get("/similar", word=word, topn=1 + number % 17).status

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(200))) == [200] * 200
    wait_redis(first, 0)
    assert first.get("/health/ready").status == 200
    assert first.get("/info").json["cache"]["redis"] == "down"
    redis_server.start()
    wait_redis(first, 1)
    wait_redis(second, 1)
    assert first.get("/similar", word="pear", topn=33).cache == "miss"
    time.sleep(0.05)
    assert second.get("/similar", word="pear", topn=33).cache == "hit"


def test_a_redis_that_hangs_delays_nobody_beyond_the_timeout(
    pair: tuple[Service, Service], redis_server: RedisServer
) -> None:
    first, _ = pair
    first.get("/similar", word="king")
    redis_server.signal(signal.SIGSTOP)
    times = []
    for number in range(60):
        start = time.perf_counter()
        assert first.get("/similar", word=WORDS[number % len(WORDS)], topn=100 + number).status == 200
        times.append(time.perf_counter() - start)
    # two may wait for the timeout, the breaker spares the rest; the margins are for a busy machine
    assert sum(each > TIMEOUT for each in times) <= 6
    assert max(times) < TIMEOUT + 0.5
    redis_server.signal(signal.SIGCONT)
    wait_redis(first, 1)


def test_a_service_starts_without_the_redis_it_was_promised(models: Path, tmp_path: Path) -> None:
    with serve(models, tmp_path / "log", redis_url="redis://127.0.0.1:1/0") as service:
        assert service.get("/similar", word="king").cache == "miss"
        assert service.get("/similar", word="king").cache == "hit"
        assert service.metric("voisin_redis_up") == 0
