"""How long until the service is ready, and how much memory does it hold, with every model open?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.rounds import Row, interleave, rows
from export.server import serve

PEER = "python, import torch"
_HOLD = "import torch, sys; print('ready', flush=True); sys.stdin.read()"


def measure(models: Path, *, rounds: int = 3) -> list[Row]:
    """Seconds from spawn to `/health/ready`, and resident memory then, answer cache off.

    The peer is a process that has imported torch and done nothing else, where any torch server begins.
    """
    memory: dict[str, list[float]] = {"service": [], PEER: []}

    def service() -> float:
        with serve(models, {"VOISIN_CACHE_BYTES": "0", "VOISIN_LOG_LEVEL": "warning"}) as server:
            memory["service"].append(resident(server.process.pid))
            return server.ready_after

    def torch() -> float:
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            seconds = time.perf_counter() - started
            memory[PEER].append(resident(process.pid))
            process.stdin.close()
        return seconds

    sides: dict[str, Callable[[], float]] = {"service": service, PEER: torch}
    seconds = interleave(sides, rounds=rounds)
    count = len(list(models.glob("*/manifest.json")))
    # the first of each was the warm-up
    held = {side: values[1:] for side, values in memory.items()}
    return [
        *rows(f"start-up, {count} models", seconds, unit="s", peer=PEER),
        *rows(f"memory, {count} models", held, unit="MB PSS", peer=PEER),
    ]


def resident(pid: int) -> float:
    """Megabytes of memory that a process and its children hold, what they share counted once."""
    process = psutil.Process(pid)
    held = [one.memory_full_info().pss for one in [process, *process.children(recursive=True)]]
    return float(sum(held)) / 1e6
