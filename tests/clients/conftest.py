"""A running service, and what the public clients are pointed at."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundle.load import open_bundle
from tests.service.making import HOST, Service, make_bundles, serve

ENDLESS = {"model": "slow-xx", "prompt": "a"}  # some ten milliseconds a token, and it never ends by itself


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small bundles of every kind."""
    return make_bundles(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One running service for every client."""
    with serve(models, tmp_path_factory.mktemp("log") / "service.log", canary_seconds=1) as service:
        yield service


@pytest.fixture(scope="session")
def crowded(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a short queue."""
    log = tmp_path_factory.mktemp("log") / "service.log"
    with serve(models, log, queue_tokens=3000, threads=1) as service:
        yield service


@pytest.fixture(scope="session")
def hurried(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a short deadline."""
    log = tmp_path_factory.mktemp("log") / "service.log"
    with serve(models, log, deadline_seconds=1.5, threads=1) as service:
        yield service


@pytest.fixture(scope="session")
def opened(models: Path) -> Callable[[str], Any]:
    """`opened("text-en")` is the bundle itself, to compare the service's answers with."""
    found: dict[str, Any] = {}

    def model(name: str) -> Any:
        if name not in found:
            found[name] = open_bundle(models / name)
        return found[name]

    return model


def url(service: Service, path: str = "") -> str:
    return f"http://{HOST}:{service.port}{path}"


@contextlib.contextmanager
def full(service: Service) -> Iterator[Callable[[], None]]:
    """The queue of the crowded service is full inside, until what is given back is called."""
    taken: list[socket.socket] = []

    def release() -> None:
        while taken:
            taken.pop().close()  # who leaves frees its rows

    try:
        for seed in range(2):
            body = json.dumps(ENDLESS | {"max_tokens": 1490, "seed": seed}).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            taken.append(service.raw(head.encode() + body))
        wait_for(lambda: service.metric("voisin_backlog_requests") == 2)
        yield release
    finally:
        release()
        wait_for(lambda: service.metric("voisin_backlog_requests") == 0)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
