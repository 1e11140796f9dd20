"""kill -9 in the middle of writes to the cache: what is left there is right, or is not taken."""

from __future__ import annotations

import contextlib
import http.client
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from service.redis_store import PREFIX, unseal
from tests.faults.watching import FRESH, meaning, questions, started, until
from tests.service.conftest import RedisServer
from tests.service.making import HOST

ASKED = questions(40)


@pytest.mark.faults_long
def test_killed_and_started_again(models: Path, tmp_path: Path, redis_server: RedisServer) -> None:
    settings = {"redis_url": redis_server.url, "cache_entries": 0}
    right: list[tuple[int, bytes]] = []
    with started(models, tmp_path / "log", **settings) as service:
        right = [meaning(each.of(service, **FRESH)) for each in ASKED]
        assert {status for status, _ in right} == {200}
        stop = threading.Event()

        def hammer(start: int) -> None:
            number = start
            while not stop.is_set():
                place = number % len(ASKED)
                number += 1
                try:
                    answer = meaning(ASKED[place].of(service, **(FRESH if number % 3 else {})))
                except (OSError, http.client.HTTPException):
                    continue  # it is dead, as was ordered; a status that came is judged
                assert answer == right[place]

        with ThreadPoolExecutor(8) as pool:
            hammers = [pool.submit(hammer, start) for start in range(8)]
            before = service.metric("voisin_cache_writes_total", result="stored")
            until(lambda: service.metric("voisin_cache_writes_total", result="stored") > before + 40)
            service.process.send_signal(signal.SIGKILL)
            assert service.process.wait(20) == -signal.SIGKILL
            stop.set()
            for each in hammers:
                each.result()
    with contextlib.closing(redis.Redis(host=HOST, port=redis_server.port)) as client:
        keys = list(client.scan_iter(PREFIX + "*"))
        assert keys
        for key in keys:
            assert unseal(key.decode().removeprefix(PREFIX), client.get(key)) is not None
    with started(models, tmp_path / "again", **settings) as service:
        assert [meaning(each.of(service)) for each in ASKED] == right
        assert service.metric("voisin_cache_requests_total", tier="redis", result="hit") > 0
