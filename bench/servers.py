"""One application behind three ASGI servers: `python -m bench.servers`, with granian and hypercorn installed.

Neither is a dependency of anything else here: `pip install granian hypercorn` into an environment of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from litestar.types import ASGIApp

from bench.load import drive, processor_seconds, request
from bench.rounds import Row, interleave, rows, save, table
from bench.similar import vocabulary
from bundle.errors import VoisinError
from export import ExportError
from export.server import HOST, free_port, ready

SETTLE = 3.0
"""Seconds until the servers have prepared the words that are asked for; they take the most frequent first."""
SERVERS = ("uvicorn", "granian", "hypercorn")
PEER = "uvicorn"
CONNECTIONS = (1, 32)


def application() -> ASGIApp:
    """The service's application, as `VOISIN_*` say."""
    from service.app import build_app
    from service.detection import Detector, load_beside
    from service.house import build_house
    from service.logs import configure
    from service.registry import open_registry
    from service.settings import read_settings

    settings = read_settings()
    configure(settings.log_level)
    registry = open_registry(settings.models_folder, device="cpu", languages=settings.language_order)
    return build_app(build_house(settings, registry, Detector(load_beside()(), registry.codes)))


def run(name: str, port: int) -> None:
    """Serve until killed; each server with uvloop, one process, HTTP/1.1, no access log."""
    if name == "uvicorn":
        import uvicorn

        uvicorn.run(
            application(), host=HOST, port=port, loop="uvloop", http="httptools", ws="none", access_log=False,
            log_config=None, server_header=False,
        )  # fmt: skip
    elif name == "granian":
        from granian import Granian
        from granian.constants import HTTPModes, Interfaces, Loops

        Granian(
            "bench.servers:application", factory=True, address=HOST, port=port, interface=Interfaces.ASGI,
            workers=1, loop=Loops.uvloop, http=HTTPModes.http1, websockets=False, log_access=False,
        ).serve()  # fmt: skip
    else:
        import uvloop
        from hypercorn.asyncio import serve
        from hypercorn.config import Config

        config = Config()
        config.bind = [f"{HOST}:{port}"]
        config.accesslog = None
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(application(), config, mode="asgi"))


@contextmanager
def serving(name: str, models: Path) -> Iterator[tuple[int, int]]:
    """A server in a process group of its own: its port, and its process id.

    Raises ExportError where it is not ready within a minute.
    """
    port = free_port()
    environment = os.environ | {"VOISIN_MODELS": str(models), "VOISIN_LOG_LEVEL": "warning"}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.servers", "--serve", name, str(port)],
        env=environment,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while not ready(port):
            if process.poll() is not None or time.monotonic() > until:
                raise ExportError(f"{name} does not serve")
            time.sleep(0.05)
        yield port, process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def spent(process: int) -> float:
    """Processor seconds of a process and its children, which some servers work in."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return processor_seconds(process) + sum(spent(int(child)) for child in children)


def measure(models: Path, *, rounds: int = 5, seconds: float = 0.6) -> list[Row]:
    """Requests a second of the clock and of processor time, each server in turns.

    Raises ExportError where a server is not installed.
    """
    for name in SERVERS:
        if find_spec(name) is None:
            raise ExportError(f"{name} is not installed: pip install granian hypercorn")
    _, words = vocabulary(models)
    paths = {"/ping": ["/ping"], "/similar": [f"/similar?word={quote(word)}" for word in words]}
    found: list[Row] = []
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving(name, models)) for name in SERVERS}
        time.sleep(SETTLE)
        for route, some in paths.items():
            for connections in CONNECTIONS:
                found += compare(servers, route, some, connections, rounds=rounds, seconds=seconds)
    return found


def compare(
    servers: Mapping[str, tuple[int, int]],
    route: str,
    paths: Sequence[str],
    connections: int,
    *,
    rounds: int,
    seconds: float,
) -> list[Row]:
    """One route, asked of every server in turns."""
    processor: dict[str, list[float]] = {name: [] for name in servers}

    def side(name: str) -> float:
        port, process = servers[name]
        asked = [request(path, host=f"{HOST}:{port}") for path in paths]
        before = spent(process)
        load = drive(HOST, port, asked, concurrency=connections, seconds=seconds)
        processor[name].append(load.requests / (spent(process) - before))
        return load.rate

    sides: dict[str, Callable[[], float]] = {name: partial(side, name) for name in servers}
    question = f"{route}, {connections} connection{'s' * (connections > 1)}"
    found = rows(question, interleave(sides, rounds=rounds), unit="requests/s", peer=PEER)
    kept = {name: values[1:] for name, values in processor.items()}  # the first was the warm-up
    return found + rows(f"{question}, processor", kept, unit="requests/s", peer=PEER)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 1: could not be, for the reason told."""
    parser = argparse.ArgumentParser(prog="python -m bench.servers", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles (models)")
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "PORT"), help="be one of the servers")
    options = parser.parse_args(arguments)
    if options.serve:
        run(options.serve[0], int(options.serve[1]))
        return 0
    try:
        found = measure(options.models)
    except (VoisinError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    save("servers", found)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
