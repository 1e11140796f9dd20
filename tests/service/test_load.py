"""Many at once: batches change nothing, the queue is bounded, and who leaves costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.service.making import Answered, Service, serve

FRESH = {"Cache-Control": "no-cache"}


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def small(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a short queue and a short deadline."""
    log = tmp_path_factory.mktemp("log") / "service.log"
    with serve(models, log, queue_tokens=3000, deadline_seconds=1.5, threads=1) as service:
        yield service


def slow(tokens: int, seed: int = 0, **more: object) -> dict[str, object]:
    """A completion that takes some ten milliseconds a token, and is another one for each seed."""
    return {
        "prompt": "a", "model": "slow-xx", "max_tokens": tokens, "temperature": 1, "seed": seed
    } | more  # fmt: skip


def test_a_batch_is_its_singles(service: Service) -> None:
    requests: list[tuple[str, dict[str, object]]] = [
        (
            "/complete",
            {"prompt": "abc"[: 1 + seed % 3], "model": "chars-en", "temperature": 1.2, "seed": seed, "n": n},
        )
        for seed in range(12)
        for n in (1, 3)
    ]
    requests += [
        ("/complete", {"prompt": prompt, "model": "text-en", "n": n})
        for prompt in ("the", "the gran", "a grand", "near ")
        for n in (1, 4)
    ]
    requests += [
        ("/translate", {"q": q, "source": "fr", "target": "en", "beam": beam})
        for q in ("a", "abc de", "gfe dcb a", "a. b. c.\nd")
        for beam in (1, 4)
    ]

    def ask(request: tuple[str, dict[str, object]]) -> Answered:
        return service.post(*request, **FRESH)

    alone = [ask(request) for request in requests]
    steps = service.metric("voisin_batch_size_count", task="complete")
    with ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            together = list(pool.map(ask, requests))
            assert [each.body for each in together] == [each.body for each in alone]
    assert all(each.status == 200 for each in alone)
    assert service.metric("voisin_batch_size_count", task="complete") > steps


def test_what_waits_travels_as_one_batch(service: Service) -> None:
    def take(count: int) -> float:
        start = time.perf_counter()
        list(pool.map(lambda seed: service.post("/complete", slow(20, seed), **FRESH), range(count)))
        return time.perf_counter() - start

    with ThreadPoolExecutor(8) as pool:
        one, eight = (min(take(count) for _ in range(3)) for count in (1, 8))
    assert eight < 4 * one


def test_twins_are_computed_once(service: Service) -> None:
    before = service.metric("voisin_tokens_total", task="complete", direction="out")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.post("/complete", slow(30, 77)), range(8)))
    assert len({each.body for each in answers}) == 1
    assert service.metric("voisin_tokens_total", task="complete", direction="out") == before + 30


def test_a_full_queue_is_429_at_once_and_says_when_to_come_back(small: Service) -> None:
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(small.post, "/complete", slow(1000, seed)) for seed in range(10)]
        eventually(lambda: small.metric("voisin_rejected_total", task="complete", reason="queue_full"))
        start = time.perf_counter()
        refused = small.post("/complete", slow(1000, 99))
        took = time.perf_counter() - start
        answers = [each.result() for each in asked]
    assert refused.status == 429
    assert took < 0.5
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "VOISIN_QUEUE_TOKENS" in refused.json["detail"]
    assert {each.status for each in answers} == {429, 504}
    eventually(lambda: small.metric("voisin_backlog_requests") == 0)
    assert small.post("/complete", slow(3)).status == 200
    assert small.get("/similar", word="king").status == 200


def test_a_late_answer_is_504_also_in_a_stream(small: Service) -> None:
    start = time.perf_counter()
    answer = small.post("/complete", slow(2500))
    assert time.perf_counter() - start < 3
    assert answer.status == 504
    assert answer.json["code"] == "deadline_exceeded"
    eventually(lambda: small.metric("voisin_backlog_requests") == 0)
    events = small.post("/complete", slow(2500, stream=True)).events()
    assert events[0][0] == "token"
    assert events[-1][0] == "error"
    assert events[-1][1]["status"] == 504
    eventually(lambda: small.metric("voisin_backlog_requests") == 0)
    assert small.metric("voisin_requests_total", task="complete", outcome="timeout") >= 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_client_that_leaves_frees_its_rows(service: Service, stream: bool, method: str) -> None:
    before = service.metric("voisin_cancelled_total", task="complete", stage="running")
    outcomes = service.metric("voisin_requests_total", task="complete", outcome="cancelled")
    query = f"prompt=a&model=slow-xx&max_tokens=3900&temperature=1&seed=5&stream={str(stream).lower()}"
    request = f"GET /complete?{query} HTTP/1.1\r\nHost: a\r\n\r\n"
    if method == "POST":
        body = (
            '{"prompt": "a", "model": "slow-xx", "max_tokens": 3900, "temperature": 1, "seed": 6, "stream": '
            + f"{str(stream).lower()}}}"
        )
        request = f"POST /complete HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    connection = service.raw(request.encode())
    eventually(lambda: service.metric("voisin_backlog_requests") == 1)
    time.sleep(0.1)
    connection.close()
    start = time.monotonic()
    eventually(lambda: service.metric("voisin_backlog_requests") == 0)
    assert time.monotonic() - start < 1
    assert service.metric("voisin_cancelled_total", task="complete", stage="running") == before + 1
    eventually(
        lambda: service.metric("voisin_requests_total", task="complete", outcome="cancelled") > outcomes
    )
    assert not [line for line in service.lines() if line["level"] == "error"]


def test_one_of_two_that_leave_does_not_stop_the_other(service: Service) -> None:
    body = '{"prompt": "a", "model": "slow-xx", "max_tokens": 60, "temperature": 1, "seed": 123}'
    request = f"POST /complete HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    leaver = service.raw(request.encode())
    eventually(lambda: service.metric("voisin_backlog_requests") == 1)
    with ThreadPoolExecutor(1) as pool:
        stayer = pool.submit(service.post, "/complete", slow(60, 123))
        eventually(lambda: service.metric("voisin_inflight_requests", task="complete") == 2)
        leaver.close()
        answer = stayer.result()
    assert answer.status == 200
    assert len(answer.json["completions"][0]["text"]) == 60


def test_health_never_waits_behind_work(service: Service) -> None:
    with ThreadPoolExecutor(8) as pool:
        busy = [pool.submit(service.post, "/complete", slow(100, seed), **FRESH) for seed in range(8)]
        for _ in range(20):
            start = time.perf_counter()
            assert service.get("/health/live").status == 200
            assert service.get("/health/ready").status == 200
            assert service.get("/similar", word="king").status == 200
            assert time.perf_counter() - start < 0.5
        assert all(each.result().status == 200 for each in busy)
