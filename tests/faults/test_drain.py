"""SIGTERM at the worst time: two hundred are told how it ended, and none is cut off."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.watching import started, until
from tests.service.making import Answered

DRAIN = 6


def ending(answer: Answered) -> str:
    """How a whole answer or a stream ended; anything but an end is an error of this test."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        name, last = answer.events()[-1]
        if name == "done":
            return "answered"
        assert (name, last["status"]) == ("error", 503)
        return "told"
    if answer.status == 200:
        return "answered"
    assert answer.status == 503
    assert answer.headers["retry-after"]
    assert answer.headers["connection"] == "close"
    return "told"


def test_a_hundred_streams_and_a_hundred_who_wait(models: Path, tmp_path: Path) -> None:
    """Half of each are short enough to be finished, half could go on for ever."""
    settings = {"drain_seconds": DRAIN, "batch_rows": 256, "queue_tokens": 10**6, "deadline_seconds": 600}
    with started(models, tmp_path / "log", **settings) as service, ThreadPoolExecutor(200) as pool:

        def ask(number: int) -> Answered:
            body = {
                "prompt": "a", "model": "slow-xx", "temperature": 1, "seed": number,
                "max_tokens": 10 if number % 4 < 2 else 3900, "stream": number % 2 == 0,
            }  # fmt: skip
            return service.ask("POST", "/complete", body, timeout=120)

        endless = [pool.submit(ask, number) for number in range(200) if number % 4 >= 2]
        until(lambda: service.metric("voisin_backlog_requests") == 100)
        short = [pool.submit(ask, number) for number in range(200) if number % 4 < 2]
        until(lambda: service.metric("voisin_requests_total", task="complete", outcome="ok") > 0)
        service.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        until(lambda: service.get("/health/ready").status == 503)
        late = service.post("/complete", {"prompt": "b", "model": "slow-xx"})
        assert (late.status, late.json["code"]) == (503, "draining")
        assert late.headers["retry-after"]
        ends = [ending(each.result()) for each in (*endless, *short)]
        assert len(ends) == 200
        assert "told" in ends
        assert "answered" in ends
        assert service.process.wait(60) == 0
        # the grace period: drain, the last bytes, and room for a busy machine
        assert time.monotonic() - begun < DRAIN + 5 + 15
        assert not [line for line in service.lines() if line["level"] == "error" and "message" in line]
