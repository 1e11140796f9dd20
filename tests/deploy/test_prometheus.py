"""A real Prometheus scrapes a real service under a scripted load.

It counts what the callers counted, the dashboard's queries have answers, and a fault raises its alert and no
other.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.deploy.manifests import DEPLOY
from tests.deploy.test_alerts import expressions, groups
from tests.service.conftest import RedisServer
from tests.service.making import FRENCH, HOST, WORDS, Service, make_bundles, serve

# how long a minute of the rules lasts here: five of them are ten scrapes
SHORT = {
    "6h": "60s",
    "2h": "40s",
    "1h": "20s",
    "30m": "10s",
    "15m": "2s",
    "10m": "2s",
    "5m": "5s",
    "2m": "3s",
    "1m": "1s",
}
SCRAPE = "500ms"
# these judge how fast this machine is, and it may be busy with other tests
TIMED = {"VoisinLatencySLOBurnFast", "VoisinLatencySLOBurnSlow"}


class Prometheus:
    """A server of its own, with the rules of deploy/monitoring on a short clock."""

    def __init__(self, program: str, folder: Path, target: int) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        (folder / "rules.yml").write_text(yaml.safe_dump({"groups": hurried(groups())}))
        config = {
            "global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE},
            "rule_files": [str(folder / "rules.yml")],
            "scrape_configs": [
                {
                    "job_name": "voisin",
                    "static_configs": [{"targets": [f"{HOST}:{target}"], "labels": {"pod": "a"}}],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={HOST}:{self.port}",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(
            f"http://{HOST}:{self.port}{path}?{urlencode(query)}", timeout=30
        ) as answer:
            return json.loads(answer.read())["data"]

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.get("/api/v1/query", query=expression)["result"]
        return found

    def answer(self, expression: str, why: str) -> None:
        """Waits for any answer: a rate wants two scrapes, and a fast machine is done before the second."""
        for _ in range(200):
            if self.query(expression):
                return
            time.sleep(0.1)
        raise AssertionError(f"{why}: nothing answers {expression}")

    def counts(self) -> Counter[tuple[str, str]]:
        """(task, outcome) -> requests, of the tasks that users ask for."""
        found = self.query('sum by (task, outcome) (voisin_requests_total{task!~"probe|meta"})')
        counted = {
            (each["metric"]["task"], each["metric"]["outcome"]): int(float(each["value"][1]))
            for each in found
        }
        return Counter({key: value for key, value in counted.items() if value})

    def settle(self, expression: str, expected: float) -> None:
        """Waits until a number is what it should be, within one percent."""
        found: list[Any] = []
        for _ in range(200):
            found = self.query(expression)
            if found and abs(float(found[0]["value"][1]) - expected) <= 0.01 * expected:
                return
            time.sleep(0.1)
        raise AssertionError(f"{expression}: {found}, expected {expected}")

    def firing(self) -> set[str]:
        alerts = self.get("/api/v1/alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"} - TIMED

    def wait_firing(self, wanted: set[str], meanwhile: Callable[[], object] = lambda: None) -> None:
        for _ in range(400):
            if self.firing() == wanted:
                return
            meanwhile()
            time.sleep(0.1)
        raise AssertionError(f"firing: {self.firing()}, wanted: {wanted}")


def hurried(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rules with every duration shortened by the same table."""

    def short(text: str) -> str:
        return re.sub(r"\b(\d+[mh])\b", lambda match: SHORT[match[1]], text)

    for group in rules:
        for rule in group["rules"]:
            rule["expr"] = short(rule["expr"])
            if "for" in rule:
                rule["for"] = short(rule["for"])
    return rules


@contextlib.contextmanager
def watching(program: str, folder: Path, target: int) -> Iterator[Prometheus]:
    server = Prometheus(program, folder, target)
    try:
        for _ in range(600):
            assert server.process.poll() is None, server.log.read_text()
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                if server.query("up == 1"):
                    break
            time.sleep(0.05)
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def redis(program: Callable[[str], str], tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(program("redis-server"), tmp_path)
    server.start()
    yield server
    server.kill()


SCRIPT: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("GET", "/similar", "similar", {"lang": "en"}),
    ("GET", "/similar", "similar", {"word": "nowhere at all"}),
    ("GET", "/complete", "complete", {"prompt": "the ", "lang": "en", "max_tokens": 3}),
    ("POST", "/translate", "translate", {"source": "fr", "target": "en"}),
    ("POST", "/translate", "translate", {"q": "a", "source": "xx", "target": "en"}),
    ("GET", "/nowhere", "other", {}),
)


def ask(service: Service, number: int) -> tuple[str, str]:
    """One request of the script; (task, outcome) as the caller saw it."""
    method, path, task, given = SCRIPT[number % len(SCRIPT)]
    asked = dict(given)
    if task == "similar" and "word" not in asked:
        asked |= {"word": WORDS[number % len(WORDS)], "topn": 1 + number % 50}
    elif task == "complete":
        asked["prompt"] += FRENCH[number % len(FRENCH)] + str(number)
    elif task == "translate" and "q" not in asked:
        asked["q"] = "abcdefg"[number % 7 :] + " " + "gfedcba"[number % 5 :]
    answer = service.get(path, **asked) if method == "GET" else service.post(path, asked)
    assert answer.status < 500
    return task, "ok" if answer.status < 400 else "client_error"


def test_what_prometheus_sees(program: Callable[[str], str], redis: RedisServer, tmp_path: Path) -> None:
    models = make_bundles(tmp_path / "models")
    with (
        # a busy machine is no fault of Redis: it may take its time here
        serve(models, tmp_path / "log", redis_url=redis.url, redis_timeout_seconds=5) as service,
        watching(program("prometheus"), tmp_path, service.port) as prometheus,
        ThreadPoolExecutor(4) as pool,
    ):
        deployment = yaml.safe_load((DEPLOY / "base" / "deployment.yaml").read_text())
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container = deployment["spec"]["template"]["spec"]["containers"][0]
            assert service.get(container[probe]["httpGet"]["path"]).status == 200

        # 1. the numbers
        sent: Counter[tuple[str, str]] = Counter()
        for start in range(0, 600, 60):  # over some scrapes, so that there are rates
            sent += Counter(pool.map(lambda number: ask(service, number), range(start, start + 60)))
        assert set(sent) == {
            ("similar", "ok"), ("similar", "client_error"), ("complete", "ok"), ("translate", "ok"),
            ("translate", "client_error"), ("other", "client_error"),
        }  # fmt: skip
        seen: Counter[tuple[str, str]] = Counter()
        for _ in range(200):
            seen = prometheus.counts()
            if seen == sent:
                break
            time.sleep(0.1)
        assert set(seen) == set(sent)
        assert all(abs(seen[key] - sent[key]) <= 0.01 * sent[key] for key in sent), (seen, sent)

        # 2. the dashboard has answers to everything but the GPU
        for where, expression in expressions():
            if re.search("DCGM|device_memory", expression) or where.startswith(("Voisin", "voisin:")):
                continue
            asked = re.sub(r"\$(namespace|pod|task|model)\b", ".*", expression)
            prometheus.answer(asked.replace("$__rate_interval", "1m"), where)
        adapter = yaml.safe_load((DEPLOY / "monitoring" / "adapter-rules.yaml").read_text())
        query = adapter["rules"]["custom"][0]["metricsQuery"]
        for placeholder, text in (
            ("Series", "voisin_backlog_requests"),
            ("LabelMatchers", 'pod="a"'),
            ("GroupBy", "pod"),
        ):
            query = query.replace(f"<<.{placeholder}>>", text)
        (backlog,) = prometheus.query(query)
        assert backlog["metric"] == {"pod": "a"}

        # 3. nothing is wrong, and nobody is woken
        assert prometheus.firing() == set()

        # 4. Redis dies: users notice nothing, operators do; it comes back
        number = iter(range(10_000, 10**9))
        redis.kill()
        prometheus.wait_firing({"VoisinCacheDown"}, lambda: ask(service, next(number)))
        redis.start()
        prometheus.wait_firing(set(), lambda: ask(service, next(number)))

        # 5. the service dies
        service.process.kill()
        service.process.wait()
        prometheus.wait_firing({"VoisinNoReadyReplica", "VoisinInstanceDown"})


def test_every_kind_of_count(program: Callable[[str], str], tmp_path: Path) -> None:
    """Cache hits, tokens, refusals and cancellations, beside what the callers saw of them."""
    models = make_bundles(tmp_path / "models")
    with (
        serve(models, tmp_path / "log", queue_tokens=3000, threads=1) as service,
        watching(program("prometheus"), tmp_path, service.port) as prometheus,
        ThreadPoolExecutor(4) as pool,
    ):
        # 1. first every question is new, then all of them were asked before
        def complete(number: int) -> tuple[str, int]:
            prompt = "abcdefg"[number % 7] + "gfedcba"[number // 7]
            asked = {"prompt": prompt, "model": "chars-en", "max_tokens": 1 + number % 5, "temperature": 0}
            answer = service.post("/v1/completions", asked)
            return answer.cache, answer.json["usage"]["completion_tokens"]

        found = [complete(number) for number in range(49)]
        found += list(pool.map(complete, [*range(49), *range(49)]))
        assert Counter(cache for cache, _ in found) == {"miss": 49, "hit": 98}
        written = sum(tokens for cache, tokens in found if cache == "miss")
        prometheus.settle('sum(voisin_cache_requests_total{result="hit"})', 98)
        prometheus.settle('sum(voisin_cache_requests_total{result="miss"})', 49)
        prometheus.settle('sum(voisin_tokens_total{task="complete",direction="out"})', written)
        prometheus.settle('sum(voisin_queue_wait_seconds_count{task="complete"})', 49)

        # 2. a job as large as the queue is in: who comes then is refused, and who leaves is counted
        endless = {"model": "slow-xx", "prompt": "a", "max_tokens": 3990, "stream": True, "temperature": 0}
        body = json.dumps(endless).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        statuses: Counter[int] = Counter()
        for _ in range(12):
            with service.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body) as stream:
                assert stream.recv(64).startswith(b"HTTP/1.1 200")
                asked = [{"model": "text-en", "prompt": f"the king {n}", "max_tokens": 30} for n in range(5)]
                statuses += Counter(pool.map(lambda one: service.post("/v1/completions", one).status, asked))
            for _ in range(1000):  # its rows are free within a step
                if not service.metric("voisin_backlog_requests"):
                    break
                time.sleep(0.02)
        assert statuses == {429: 60}
        prometheus.settle('sum(voisin_rejected_total{reason="queue_full"})', 60)
        prometheus.settle('sum(voisin_requests_total{task="complete",outcome="rejected"})', 60)
        prometheus.settle('sum(voisin_requests_total{task="complete",outcome="cancelled"})', 12)
        prometheus.settle("sum(voisin_cancelled_total)", 12)
        prometheus.settle("sum(voisin_queue_depth) + sum(voisin_backlog_requests)", 0)
        # whatever so many refusals woke, it is over when they are
        prometheus.wait_firing(set())
