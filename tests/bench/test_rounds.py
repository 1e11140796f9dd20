"""The arithmetic of a comparison, and the generator that drives it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import bench.rounds
from bench.load import Load, drive, request
from bench.rounds import interleave, rows, save, table


def test_sides_alternate_and_the_first_round_is_not_measured() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    values = interleave({"a": lambda: side("a"), "b": lambda: side("b")}, rounds=3)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert values == {"a": [3.0, 6.0, 7.0], "b": [4.0, 5.0, 8.0]}


def test_the_ratio_is_of_rounds_not_of_medians() -> None:
    ours, peer = rows("q", {"ours": [2.0, 40.0, 6.0], "peer": [1.0, 10.0, 6.0]}, unit="x/s", peer="peer")
    assert (ours.median, ours.lowest, ours.highest, ours.ratio) == (6.0, 2.0, 40.0, 2.0)
    assert peer.ratio == 1.0
    text = table([ours, peer])
    assert "2.00 x peer" in text
    assert "(peer)" in text
    assert len({line.index("x/s") for line in text.splitlines()[1:]}) == 1


def test_a_report_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.rounds, "OUT", tmp_path / "out")
    path = save("q", rows("q", {"a": [1.0]}, unit="s", peer="a"))
    report = json.loads(path.read_text())
    assert report["machine"]
    assert report["rows"][0]["median"] == 1.0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[str]

    def do_GET(self) -> None:
        type(self).seen.append(self.path)
        body = b"{}"
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Handler.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_load_is_counted_and_spread(port: int) -> None:
    requests = [request(f"/{name}", host="x") for name in "abcd"]
    load = drive("127.0.0.1", port, requests, concurrency=2, seconds=0.2)
    assert load.requests == len(load.latencies) == len(Handler.seen)
    assert load.requests > 4
    assert set(Handler.seen) == {"/a", "/b", "/c", "/d"}
    assert 0.2 <= load.seconds < 5.0
    assert load.rate == pytest.approx(load.requests / load.seconds)
    assert 0 < load.percentile(50) <= load.percentile(99)


def test_an_answer_that_is_no_success_ends_the_load(port: int) -> None:
    with pytest.raises(RuntimeError, match="404"):
        drive("127.0.0.1", port, [request("/missing", host="x")], concurrency=1, seconds=1.0)


def test_percentiles_are_in_milliseconds() -> None:
    load = Load(requests=3, seconds=1.0, latencies=(0.001, 0.002, 0.003))
    assert load.percentile(50) == pytest.approx(2.0)
