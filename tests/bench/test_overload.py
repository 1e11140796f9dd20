"""The load that does not wait, on a true service: every request is accounted for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench import overload
from bench.arrivals import Record
from bench.overload import Level, backlog, closed, level, table
from bench.sentences import english, french
from export.server import serve
from tests.service.making import make_bundles


def test_every_request_is_answered_or_refused(tmp_path: Path) -> None:
    texts = [letter * 7 for letter in "abcdefg"]
    bodies = [json.dumps({"q": text, "source": "fr", "target": "en", "model": "fr-en"}) for text in texts]
    small = {"VOISIN_QUEUE_TEXTS": "40", "VOISIN_LOG_LEVEL": "warning"}
    with serve(make_bundles(tmp_path / "models"), small) as server:
        capacity = closed(server, bodies, seconds=0.3, warm=0.1)
        found = [level(server, bodies, capacity, multiple, seconds=0.4) for multiple in (0.3, 8.0)]
        assert backlog(server.port) == 0
    for each in found:
        record = each.record
        assert record.sent == sum(record.statuses.values()) > 0
        assert record.lost == record.unanswered == 0
        assert {status: len(waits) for status, waits in record.waits.items()} == record.statuses
    assert found[1].record.statuses[429] > 0
    assert found[1].memory > 0
    assert all(0.0 <= each.stolen < 1.0 for each in found)


def test_ratios_are_against_the_level_at_capacity() -> None:
    def made(multiple: float, good: int, refused: int) -> Level:
        waits = {200: [0.1 * multiple] * good} | ({429: [0.002] * refused} if refused else {})
        statuses = {status: len(some) for status, some in waits.items()}
        record = Record(
            sent=good + refused, statuses=statuses, waits=waits, lost=0, unanswered=0, seconds=2.0,
            late=0.0, connections=4,
        )  # fmt: skip
        return Level(multiple, 1.0, record, [0.001, 0.003], 0.002, 100.0, 2.0, 0.25)

    rows = table([made(1.0, 20, 0), made(10.0, 18, 182)], 10.0, "here")
    found = {(row.question.partition(": ")[2], row.side): row for row in rows}
    assert found["answered", "10x"].median == 9.0
    assert found["answered", "10x"].ratio == pytest.approx(0.9)
    assert found["answered, wait p99", "10x"].ratio == pytest.approx(10.0)
    assert found["answered, of the server's processor", "10x"].ratio == pytest.approx(0.9)
    assert found["refused (429)", "10x"].median == 91.0
    assert found["refused, wait p50", "10x"].median == pytest.approx(2.0)
    assert math.isnan(found["refused, wait p50", "1x"].median)
    assert found["health, longest wait", "1x"].median == pytest.approx(3.0)
    assert found["the server's cores, taken by the host", "10x"].median == 25.0
    assert found["who asks for health, longest oversleep", "1x"].median == pytest.approx(2.0)


def test_no_two_sentences_are_alike() -> None:
    for make in (french, english):
        some = make(5000)
        assert len(set(some)) == 5000
        assert set(make(12**4, seed=1)) == set(make(12**4))


def test_the_peer_of_the_table_is_among_the_multiples() -> None:
    assert overload.PEER in {f"{multiple:g}x" for multiple in overload.MULTIPLES}
