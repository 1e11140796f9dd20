"""What tests of faults do to a service and look for in it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

from tests.service.making import WORDS, Answered, Service, _is_ready

FRESH = {"Cache-Control": "no-cache"}


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for a condition; the bound is for a test that would hang, not a promise."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@dataclass(frozen=True)
class Asked:
    """A request that has one right answer."""

    method: str
    path: str
    body: object = None

    def of(self, service: Service, **headers: str) -> Answered:
        return service.ask(self.method, self.path, self.body, headers=headers)


def questions(count: int) -> list[Asked]:
    """Different requests of every task; the same list each time."""
    found = []
    for number in range(count):
        word = WORDS[number % len(WORDS)]
        turn = number // 4
        match number % 4:
            case 0:
                found.append(Asked("GET", f"/similar?word={quote_plus(word)}&topn={1 + turn}"))
            case 1:
                prompt = "abcdefg"[turn % 7 :] + "abc"[: turn % 3] + " " * (turn % 2) + "ab" * (turn // 7)
                found.append(
                    Asked("POST", "/complete", {"prompt": prompt, "model": "chars-en", "max_tokens": 5})
                )
            case 2:
                text = ("abc defg" * 2)[turn % 8 :][: 3 + turn % 9]
                found.append(
                    Asked(
                        "POST",
                        "/translate",
                        {"q": text, "source": "fr", "target": "en", "beam": 1 + turn % 4},
                    )
                )
            case _:
                prompt = f"the {word} near the grand"[: 5 + turn % 20]
                found.append(
                    Asked("GET", f"/complete?prompt={quote_plus(prompt)}&model=text-en&n={1 + turn % 3}")
                )
    return found


def meaning(answer: Answered) -> tuple[int, bytes]:
    """What must not change whatever happens around the service."""
    return answer.status, answer.body


@contextlib.contextmanager
def started(
    models: Path,
    log: Path,
    *,
    program: Sequence[str] = (sys.executable, "-W", "error", "-m", "service"),
    environ: Mapping[str, str] | None = None,
    **settings: object,
) -> Iterator[Service]:
    """A service over a folder of bundles, ready, started by any program; as `tests.service.making.serve`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VOISIN_")}
    given = {f"VOISIN_{name.upper()}": str(value) for name, value in settings.items()}
    environment = (
        kept | {"VOISIN_MODELS": str(models), "VOISIN_LISTEN_PORT": "0"} | given | dict(environ or {})
    )
    with log.open("ab") as file:
        process = subprocess.Popen(program, env=environment, stdout=file, stderr=file)
    try:
        service = Service(process, 0, log)
        until(lambda: _ready(service), 180)  # the load of these tests may be that of the machine, too
        yield service
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _ready(service: Service) -> bool:
    """Whether the service has come up; finds out its port on the way."""
    text = service.log.read_text()
    assert service.process.poll() is None, text
    found = [line for line in text.splitlines() if '"listening"' in line]
    if not found:
        return False
    service.port = int(json.loads(found[-1])["url"].rsplit(":", 1)[1])
    return _is_ready(service.port)


def hear_out(connection: socket.socket) -> bytes:
    """Everything until the other side hangs up, in good order or not."""
    heard = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            heard += data
    return heard
