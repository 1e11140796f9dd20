"""What the service costs here, in processor time: decoders in process, the event loop in the real server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import psutil

from bench import load
from bench.capacity import texts
from bench.capacity.costs import Costs, Lane, Route
from bench.capacity.decoders import Model, measure_lane
from bundle.load import open_bundle
from bundle.vectors import Vectors
from export.speed import processor

HOST = "127.0.0.1"
LANES = {"complete": ("text-en", "text-fr"), "translate": ("fr-en", "en-fr")}
_TEXTS = 300
_LANGUAGES = {"text-en": "en", "text-fr": "fr", "fr-en": "fr", "en-fr": "en"}


class Server:
    """A real server in a process of its own.

    Attributes:
        port: where it listens.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._seen = psutil.Process(process.pid)
        self.port = port

    def processor_seconds(self, *, loop: bool = False) -> float:
        """Processor time so far: of all threads, or of the event loop's alone."""
        if loop:
            return sum(t.user_time + t.system_time for t in self._seen.threads() if t.id == self._seen.pid)
        times = self._seen.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def serve(models: Path, *, core: int | None = None, **settings: object) -> Iterator[Server]:
    """A server over a folder of bundles, ready, on one core if asked. Settings are named as in `Settings`.

    Raises:
        OSError: it did not start.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VOISIN_")}
    given = {f"VOISIN_{name.upper()}": str(value) for name, value in settings.items()}
    place = {"VOISIN_MODELS": str(models), "VOISIN_LISTEN_PORT": "0", "VOISIN_DEVICE": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-m", "service"], env=kept | place | given, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        said = b""
        while b'"listening"' not in said:
            said = process.stderr.readline()
            if not said:
                raise OSError("the server did not start")
        port = int(json.loads(said)["url"].rsplit(":", 1)[1])
        _drain(process)
        _wait_ready(port)
        yield Server(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stderr.close()


def _drain(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    threading.Thread(target=lambda file: [None for _ in file], args=(process.stderr,), daemon=True).start()


def _wait_ready(port: int) -> None:
    for _ in range(600):
        with (
            contextlib.suppress(urllib.error.URLError),
            urllib.request.urlopen(f"http://{HOST}:{port}/health/ready"),
        ):
            return
        time.sleep(0.05)
    raise OSError("the server is not ready after 30 s")


def settle(server: Server) -> None:
    """Until the server has done what it does for itself after a start."""
    before = server.processor_seconds()
    for _ in range(120):
        time.sleep(0.5)
        before, now = server.processor_seconds(), before
        if before - now < 0.02:
            return
    raise OSError("the server does not come to rest")


def get(path: str) -> bytes:
    """The bytes of a GET on a connection that stays."""
    return load.request(path, host=HOST)


def translate(text: str, source: str, target: str) -> bytes:
    """The bytes of a POST /translate on a connection that stays."""
    body = json.dumps({"q": text, "source": source, "target": target}).encode()
    head = f"POST /translate HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def ask(task: str, model: str, text: str) -> bytes:
    """The request of a task for a text: with every wish left out."""
    if task == "similar":
        return get(f"/similar?word={quote(text)}&lang={model}")
    if task == "complete":
        return get(f"/complete?prompt={quote(text)}&lang={_LANGUAGES[model]}")
    return translate(text, *model.split("-"))


def material(models: Path, count: int, *, seed: int = 0) -> dict[str, list[str]]:
    """Texts for each lane, by the name of its model."""
    found = {}
    for task, names in LANES.items():
        for name in names:
            language = _LANGUAGES[name]
            if task == "translate":
                found[name] = texts.sentences(language, count, seed=seed)
            else:
                model = open_bundle(models / name, check=False)
                most = model.manifest.limits.prompt_tokens
                found[name] = texts.prompts(language, model.tokenizer, most, count, seed=seed)
    return found


def _loop_seconds(server: Server, requests: Sequence[bytes], *, seconds: float, together: int = 8) -> float:
    """Processor seconds of the event loop for one of these requests."""
    before = server.processor_seconds(loop=True)
    found = load.drive(HOST, server.port, requests, concurrency=together, seconds=seconds)
    return (server.processor_seconds(loop=True) - before) / found.requests


def _answer_bytes(server: Server, requests: Sequence[bytes]) -> int:
    """Mean bytes that an entry of the cache takes, by the server's own count."""

    def held() -> float:
        with urllib.request.urlopen(f"http://{HOST}:{server.port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        [value] = [line.split()[1] for line in lines if line.startswith("voisin_cache_bytes ")]
        return float(value)

    before = held()
    for one in requests:
        _once(server, one)
    return round((held() - before) / len(requests))


def _once(server: Server, request: bytes) -> None:
    """One request on a connection of its own."""
    with socket.create_connection((HOST, server.port), timeout=60) as connection:
        connection.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        answer = b""
        while more := connection.recv(65536):
            answer += more
    if not answer.startswith(b"HTTP/1.1 200"):
        raise OSError(f"the server answered {answer[:60]!r}")


def _routes(
    models: Path, given: dict[str, list[str]], seconds: float
) -> tuple[dict[str, Route], dict[str, float]]:
    words = open_bundle(models / "words-en", check=False)
    assert isinstance(words, Vectors)
    known = texts.words(words, 20_000)
    asked = {
        "similar": [ask("similar", "en", word) for word in known],
        **{
            task: [ask(task, name, text) for name in names for text in given[name]]
            for task, names in LANES.items()
        },
    }
    found = {}
    with serve(models, cache_bytes=2**30) as server:
        settle(server)
        for task, requests in asked.items():
            size = _answer_bytes(server, requests[:64])
            hit = _loop_seconds(server, requests[:64], seconds=seconds)
            # without a cache, so that every request is a miss: through its header
            fresh = [one.replace(b"\r\n\r\n", b"\r\nCache-Control: no-cache\r\n\r\n", 1) for one in requests]
            miss = _loop_seconds(server, fresh, seconds=3 * seconds if task in LANES else seconds)
            found[task] = Route(hit=float(f"{hit:.4g}"), miss=float(f"{miss:.4g}"), bytes=size)
        scans = [
            get(f"/similar?word={quote(word)}&lang=en&topn={20 + n % 30}") for n, word in enumerate(known)
        ]
        other = {
            "ping": _loop_seconds(server, [get("/ping")], seconds=seconds),
            "scan": _loop_seconds(server, scans, seconds=seconds),
        }
    return found, {name: float(f"{value:.4g}") for name, value in other.items()}


def measure(models: Path, *, seconds: float = 1.0) -> Costs:
    """All costs of the shipped bundles, in some minutes.

    Raises:
        OSError: VOISIN_DATA names no corpora, or the server does not start.
        BundleError: a bundle is missing.
    """
    given = material(models, _TEXTS)
    lanes: dict[str, list[Lane]] = {}
    for task, names in LANES.items():
        for name in names:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            model = open_bundle(models / name, check=False)
            assert isinstance(model, Model)
            lanes.setdefault(task, []).append(measure_lane(model, given[name], seconds=seconds))
    print("measuring the server", file=sys.stderr, flush=True)
    routes, other = _routes(models, given, seconds)
    return Costs(
        made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        machine=processor(),
        routes=routes,
        lanes=lanes,
        other=other,
    )
