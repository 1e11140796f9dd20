"""Bundles and services that several tests share."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.service.making import HOST, Service, make_bundles, serve


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small bundles of every kind."""
    return make_bundles(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One running service for all who do not mind what others asked it before."""
    log = tmp_path_factory.mktemp("log") / "service.log"
    with serve(models, log, canary_seconds=1) as service:
        yield service


class RedisServer:
    """A real redis-server that can be killed, paused and brought back on the same port."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self._program, "--port", str(self.port), "--bind", HOST, "--save", "", "--appendonly", "no"],
            cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(500):
            try:
                with socket.create_connection((HOST, self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                time.sleep(0.01)
        raise AssertionError("redis-server does not answer")

    def wait_for(self, keys: int) -> None:
        """Until it holds as many keys."""
        with redis.Redis(port=self.port, host=HOST) as client:
            for _ in range(500):
                if client.dbsize() == keys:
                    return
                time.sleep(0.01)
        raise AssertionError(f"redis holds {client.dbsize()} keys, not {keys}")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: every connection breaks at once."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def redis_server(program: Callable[[str], str], tmp_path: Path) -> Iterator[RedisServer]:
    """A running Redis of this test's own."""
    server = RedisServer(program("redis-server"), tmp_path)
    server.start()
    yield server
    server.kill()
