"""The wall clock jumps; nothing but the time stamps of the log moves with it."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.faults.watching import started, until

DECADE = 3650  # days
# What reads the wall clock: `time.time`, `datetime.now` and their like.
WALL = {"time", "time_ns", "now", "utcnow", "today", "localtime", "ctime"}


def library() -> str:
    """libfaketime, as Debian installs it."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        missing("libfaketime")
    return str(found[0])


@pytest.mark.faults_long
def test_jumps_of_ten_years(models: Path, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environ = {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    settings = {"canary_seconds": 0.5, "deadline_seconds": 100}
    with (
        started(models, tmp_path / "log", environ=environ, **settings) as service,
        ThreadPoolExecutor(2) as pool,
    ):
        for number, jump in enumerate((f"+{DECADE}d", f"-{DECADE}d", "+0")):
            body = {"prompt": "a", "model": "slow-xx", "temperature": 1, "seed": number, "max_tokens": 100}
            under_way = pool.submit(service.post, "/complete", body)
            until(lambda: service.metric("voisin_backlog_requests") >= 1)
            clock.write_text(jump)
            answer = under_way.result()
            assert answer.status == 200
            assert len(answer.json["completions"][0]["text"]) == 100
            assert service.post("/complete", body).cache == "hit"
            timing = answer.headers["server-timing"].partition(";dur=")[2].partition(",")[0]
            assert 0 < float(timing) < 100_000
            assert service.get("/health/ready").status == 200
            assert service.get("/health/live").status == 200
        years = {line["time"][:4] for line in service.lines()}
        assert len(years) == 3, "the clock did not jump, so this test shows nothing"
        for name in ("request_duration_seconds", "queue_wait_seconds", "time_to_first_token_seconds"):
            assert 0 <= service.metric(f"voisin_{name}_sum", task="complete") < 300
        assert service.stop() == 0


def readers(path: Path) -> bool:
    """Whether a file asks for the time of day."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    called = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in {"time", "datetime", "date"}
    }
    imported = {
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
    }
    return bool(WALL & (called | imported))


def test_only_time_stamps_ask_for_the_time_of_day(root: Path) -> None:
    """The log's, the spans', and the `created` that OpenAI's format wants; nothing that waits or expires."""
    asked = {
        path.name for room in ("service", "bundle") for path in (root / room).rglob("*.py") if readers(path)
    }
    assert "logs.py" in asked
    assert asked <= {"logs.py", "tracing.py", "openai.py"}
