"""SIGTERM: not ready, finish what was begun, refuse the rest, leave with 0."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.service.making import serve

QUERY = {"prompt": "a", "model": "slow-xx", "temperature": 1, "seed": 1}


def test_a_stream_is_finished_and_new_work_refused(models: Path, tmp_path: Path) -> None:
    with serve(models, tmp_path / "log", drain_seconds=20) as service, ThreadPoolExecutor(2) as pool:
        stream = pool.submit(service.get, "/complete", **QUERY, max_tokens=120, stream="true")
        whole = pool.submit(service.get, "/complete", **(QUERY | {"seed": 2}), max_tokens=120)
        while service.metric("voisin_backlog_requests") < 2:
            time.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)
        while (ready := service.get("/health/ready")).status == 200:
            time.sleep(0.01)
        assert [each["code"] for each in ready.json["reasons"]] == ["draining"]
        assert service.get("/health/live").status == 200
        refused = service.get("/complete", **(QUERY | {"seed": 3}))
        assert refused.status == 503
        assert refused.json["code"] == "draining"
        assert refused.headers["retry-after"]
        assert refused.headers["connection"] == "close"
        assert service.get("/similar", word="king").status == 200
        events = stream.result().events()
        assert events[-1][0] == "done"
        assert len(events[-1][1]["completions"][0]["text"]) == 120
        assert whole.result().status == 200
        assert service.process.wait(10) == 0
        messages = [line.get("message") for line in service.lines()]
        assert "draining" in messages
        assert "drained" in messages


def test_what_does_not_end_in_time_is_told_so(models: Path, tmp_path: Path) -> None:
    with serve(models, tmp_path / "log", drain_seconds=0.3) as service, ThreadPoolExecutor(2) as pool:
        stream = pool.submit(service.get, "/complete", **QUERY, stream="true")
        whole = pool.submit(service.get, "/complete", **(QUERY | {"seed": 2}))
        while service.metric("voisin_backlog_requests") < 2:
            time.sleep(0.01)
        start = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - start < 5
        name, problem = stream.result().events()[-1]
        assert (name, problem["status"]) == ("error", 503)
        assert whole.result().status == 503


def test_idle_it_leaves_at_once(models: Path, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with serve(models, tmp_path / "log") as service:
            start = time.monotonic()
            service.process.send_signal(number)
            assert service.process.wait(10) == 0
            assert time.monotonic() - start < 4
