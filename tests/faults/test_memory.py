"""The largest requests allowed, many at once, inside two gibibytes; and nothing that grows with use."""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.faults.watching import started, until
from tests.service.making import HOST, Service

GIBIBYTE = 2**30
ANSWERS = {200, 400, 429, 503, 504}  # 400: more than the model takes; the rest are the documented refusals

pytestmark = pytest.mark.faults_long


def family(service: Service) -> list[psutil.Process]:
    """The service and what it has forked."""
    process = psutil.Process(service.process.pid)
    return [process, *process.children()]


def held(service: Service) -> int:
    """Memory of them all, what they share counted once, bytes."""
    return sum(each.memory_full_info().pss for each in family(service))


class Peak:
    """The most memory that was held while the block lasted, looked at ten times a second, bytes."""

    def __init__(self, service: Service) -> None:
        self.held = 0
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.held = max(self.held, held(self._service))


def largest() -> list[tuple[str, dict[str, object]]]:
    """For each task a request at its limits: characters, texts, choices, beams, neighbours."""
    words = "king queen man woman rome paris france england river city"
    text = (words * 100)[:4900]
    short = "Où est la gare la plus proche de la ville, s'il vous plaît ? " * 3
    return [
        ("/translate", {"q": text, "source": "en", "target": "fr", "beam": 32, "alternatives": 16}),
        ("/translate", {"q": [short] * 128, "source": "fr", "target": "en", "beam": 16, "alternatives": 16}),
        ("/translate", {"q": [text] * 128, "source": "en", "target": "fr"}),
        (
            "/complete",
            {"prompt": text, "lang": "en", "n": 16, "max_tokens": 2000, "temperature": 1, "seed": 1},
        ),
        ("/complete", {"prompt": text, "lang": "fr", "level": "char", "n": 16, "max_tokens": 2000}),
        ("/complete", {"prompt": "The king", "lang": "en", "n": 16, "beam": 32, "max_tokens": 100}),
        ("/similar", {"positive": words.split(), "negative": ["house"], "topn": 1000}),
        ("/v1/embeddings", {"model": "words-en", "input": words.split() * 12}),
        ("/detect", {"q": text}),
    ]


def test_two_gibibytes_are_enough_for_the_largest_requests(root: Path, tmp_path: Path) -> None:
    """The eight bundles that ship, default settings, sixteen clients that ask for the most there is."""
    models = root / "models"
    with started(models, tmp_path / "log", threads=2) as service:
        statuses: list[int] = []

        def ask(number: int) -> None:
            path, body = largest()[number % len(largest())]
            if "seed" in body:
                body["seed"] = number
            answer = service.ask("POST", path, body, headers={"Cache-Control": "no-cache"}, timeout=120)
            statuses.append(answer.status)

        at_rest = held(service)
        with Peak(service) as peak, ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(144)))
        assert set(statuses) <= ANSWERS, statuses
        assert 200 in statuses
        until(lambda: service.metric("voisin_backlog_requests") == 0, 120)
        assert service.get("/health/live").status == 200
        used = peak.held
        print(f"\npeak {used / GIBIBYTE:.2f} GiB, {at_rest / GIBIBYTE:.2f} GiB at rest", statuses.count(200))
        assert used < 2 * GIBIBYTE
        assert not [line for line in service.lines() if line["level"] == "error" and "message" in line]


def test_a_hundred_thousand_requests_leave_nothing_behind(models: Path, tmp_path: Path) -> None:
    """Mixed requests, right, wrong and abandoned: memory stops growing, descriptors, threads and tasks too.

    Memory is read after each of twenty equal parts. A leak of b bytes a request is a line of that slope; the
    slope over the second half, with the cache full, must be within three standard errors of nothing or below
    ten bytes a request.
    """
    count = int(os.environ.get("VOISIN_SOAK_REQUESTS", "100000"))
    settings = {"cache_entries": 500}
    with started(models, tmp_path / "log", **settings) as service:
        process = psutil.Process(service.process.pid)
        memory, resources, done = [], [], []
        for part in range(20):
            load(service, count // 20, part)
            until(lambda: service.metric("voisin_backlog_requests") == 0)
            until(lambda: len(process.net_connections("tcp")) <= 2)
            memory.append(held(service))
            all_ = family(service)
            resources.append((sum(e.num_fds() for e in all_), sum(e.num_threads() for e in all_)))
            done.append((part + 1) * (count // 20))
        slope, error = line(np.array(done[10:], float), np.array(memory[10:], float))
        print(f"\n{[each // 2**20 for each in memory]} MiB, slope {slope:.2f} ± {error:.2f} B a request")
        assert slope < max(10.0, 3 * error)
        fds, threads = zip(*resources, strict=True)
        assert max(fds[10:]) <= max(fds[:10]) + 2
        assert max(threads) == threads[0]
        answered = sum(
            service.metric("voisin_requests_total", task=task, outcome=outcome)
            for task in ("similar", "complete", "translate", "other")
            for outcome in ("ok", "client_error", "cancelled")
        )
        assert answered >= count
        assert service.metric("voisin_requests_total", task="complete", outcome="error") == 0
        assert not [each for each in service.lines() if each["level"] == "error"]


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares: the slope and its standard error."""
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    rest = y - y.mean() - slope * centred
    return slope, float(np.sqrt(rest @ rest / (len(x) - 2) / (centred @ centred)))


def load(service: Service, count: int, part: int) -> None:
    """So many requests from four clients that keep their connections."""
    failures: list[str] = []

    def client(number: int) -> None:
        chance = random.Random(1000 * part + number)
        connection = http.client.HTTPConnection(HOST, service.port, timeout=60)
        for _ in range(count // 4):
            method, path, body, allowed = pick(chance)
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            answer.read()
            if answer.status not in allowed:
                failures.append(f"{method} {path}: {answer.status}")
        connection.close()

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert failures == []


def pick(chance: random.Random) -> tuple[str, str, bytes | None, set[int]]:
    """A request and the statuses it may have; one in ten is wrong in some way."""
    kind, tail = chance.randrange(10), "".join(chance.choices("abcdefg ", k=chance.randrange(1, 12)))
    match kind:
        case 0 | 1 | 2 | 3:
            word = chance.choice(("king", "queen", "pear", "apple"))
            return "GET", f"/similar?word={word}&topn={chance.randrange(1, 1000)}", None, {200, 404}
        case 4 | 5:
            body = json.dumps({"prompt": tail, "model": "chars-en", "max_tokens": chance.randrange(1, 4)})
            return "POST", "/complete", body.encode(), {200}
        case 6:
            body = json.dumps({"prompt": tail, "model": "chars-en", "max_tokens": 3, "stream": True})
            return "POST", "/complete", body.encode(), {200}
        case 7 | 8:
            body = json.dumps({"q": tail, "source": "fr", "target": "en", "beam": 1})
            return "POST", "/translate", body.encode(), {200}
        case _:
            path = chance.choice(
                (f"/{tail.replace(' ', '')}x", "/similar?word=" + "z" * 300, "/complete?n=x")
            )
            return "GET", path, None, {400, 404}
