"""The service as a child process, asked over HTTP as anybody would: for toys, tests and benchmarks."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from export import ExportError

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """A running service."""

    process: subprocess.Popen[bytes]
    port: int
    started: float
    """`time.perf_counter()` at spawn."""
    ready_after: float
    """Seconds from spawn to ready."""

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Any:
        """The JSON answer of a GET. Raises ExportError unless it is 200."""
        return self._ask("GET", path + ("?" + urlencode(query) if query else ""), None)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        """The JSON answer of a POST. Raises ExportError unless it is 200."""
        return self._ask("POST", path, json.dumps(body))

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise ExportError(f"{method} {path}: {answer.status} {text[:500]}")
        return json.loads(text)


@contextmanager
def serve(
    models: Path,
    settings: Mapping[str, str] | None = None,
    *,
    patience: float = 60.0,
    module: str = "service",
) -> Iterator[Server]:
    """The service over a folder of bundles, on a free port of this machine; stopped when the block ends.

    settings: further `VOISIN_*` variables. Those of the surrounding environment are not passed on.
    module: what is run; another than the service has routes of a peer beside it.
    Raises ExportError, with the end of its log, when it exits or is not ready within `patience` seconds.
    """
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VOISIN_")}
    environment = (
        kept | {"PORT": str(port), "VOISIN_MODELS": str(models), "VOISIN_HOST": HOST} | dict(settings or {})
    )
    # a file, not a pipe: nobody would empty the pipe
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", module], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while not ready(port):
                if process.poll() is not None or time.perf_counter() - started > patience:
                    state = "is not ready" if process.poll() is None else f"exited with {process.returncode}"
                    raise ExportError(f"the service {state}: {_tail(log)}")
                time.sleep(0.005)
            yield Server(process, port, started, time.perf_counter() - started)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL ten seconds later."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def ready(port: int) -> bool:
    """Whether `/health/ready` answers 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(log: Any) -> str:
    log.seek(0)
    return str(log.read().decode("utf-8", "replace"))[-2000:].strip()
