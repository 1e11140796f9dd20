"""A worker that dies or hangs: nobody is kept waiting, first not ready, then not live."""

from __future__ import annotations

import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.faults.watching import started, until
from tests.service.making import Service

PROGRAM = (sys.executable, "-W", "error", "-m", "tests.faults.sabotaged")
SLOW = {"prompt": "a", "model": "slow-xx", "temperature": 1, "max_tokens": 3000}


def watch_fall(service: Service) -> list[tuple[int, int]]:
    """(ready, live) as a kubelet sees them, until not live; each pair once."""
    seen: list[tuple[int, int]] = []
    end = time.monotonic() + 60
    while not seen or seen[-1][1] == 200:
        assert time.monotonic() < end, seen
        # ready first: between the two questions things only get worse
        pair = (service.get("/health/ready").status, service.get("/health/live").status)
        if not seen or seen[-1] != pair:
            seen.append(pair)
        time.sleep(0.02)
    return seen


def sabotage(service: Service, order: signal.Signals) -> None:
    """To whoever decodes: the service itself, or what it has forked."""
    workers = psutil.Process(service.process.pid).children()
    for each in workers or [service.process]:
        each.send_signal(order)


@pytest.mark.parametrize("order", [signal.SIGUSR1, signal.SIGKILL])
@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_a_worker_that_dies(models: Path, tmp_path: Path, workers: str, order: signal.Signals) -> None:
    if (workers, order) == ("threads", signal.SIGKILL):
        return  # nothing would be left to be looked at
    settings = {"canary_seconds": 0.5, "threads": 2, "workers": workers}
    with (
        started(models, tmp_path / "log", program=PROGRAM, **settings) as service,
        ThreadPoolExecutor(8) as pool,
    ):
        waiting = [pool.submit(service.post, "/complete", SLOW | {"seed": seed}) for seed in range(4)]
        streams = [
            pool.submit(service.post, "/complete", SLOW | {"seed": 10 + seed, "stream": True})
            for seed in range(4)
        ]
        until(lambda: service.metric("voisin_backlog_requests") == 8)
        sabotage(service, order)
        # everybody who was in is told, with a status and when to come back; nobody is cut off
        for answer in (each.result() for each in waiting):
            assert (answer.status, answer.json["code"]) == (503, "worker_dead")
            assert answer.headers["retry-after"]
        for answer in (each.result() for each in streams):
            name, problem = answer.events()[-1]
            assert (name, problem["code"]) == ("error", "worker_dead")
        late = service.post("/complete", SLOW)
        assert (late.status, late.json["code"]) == (503, "worker_dead")
        assert service.get("/similar", word="king").status == 200
        fall = watch_fall(service)
        assert fall in ([(503, 200), (503, 503)], [(503, 503)])
        assert "worker_dead" in [each["code"] for each in service.get("/health/ready").json["reasons"]]
        assert service.metric("voisin_ready") == 0
        assert service.metric("voisin_backlog_requests") == 0
        assert service.stop() == 0


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_a_worker_that_hangs(models: Path, tmp_path: Path, workers: str) -> None:
    settings = {"canary_seconds": 0.5, "threads": 2, "deadline_seconds": 1.5, "drain_seconds": 1}
    settings |= {"workers": workers}
    with started(models, tmp_path / "log", program=PROGRAM, **settings) as service:
        with ThreadPoolExecutor(4) as pool:
            sabotage(service, signal.SIGUSR2)
            lost = [
                pool.submit(service.post, "/complete", SLOW | {"seed": seed, "stream": seed > 1})
                for seed in range(4)
            ]
            fall = watch_fall(service)
            # the other lane is stepped by the other worker, whatever the first one does
            assert service.get("/complete", prompt="abc", model="chars-en", max_tokens=3).status == 200
            answers = [each.result() for each in lost]
        assert [each.status for each in answers[:2]] == [504, 504]
        assert [each.events()[-1][1]["status"] for each in answers[2:]] == [504, 504]
        assert fall[-2:] == [(503, 200), (503, 503)]
        assert "model_stuck" in [each["code"] for each in service.get("/health/ready").json["reasons"]]
        begun = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(40) == 0
        assert time.monotonic() - begun < 30
