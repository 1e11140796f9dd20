"""How many nearest-word answers a second, beside the most trivial route of the same server?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

from bench.load import Load, drive, request
from bench.rounds import Row, interleave, rows
from bundle.load import open_bundle
from bundle.manifest import MANIFEST
from bundle.vectors import Vectors
from export import ExportError
from export.server import HOST, serve

PEER = "/ping"
WORDS = 256


def measure(models: Path, *, rounds: int = 5, seconds: float = 1.5) -> list[Row]:
    """Requests a second and latency at 1 and 32 connections: `/ping`, `/similar` from the cache, and
    `/similar` computed afresh (`Cache-Control: no-cache`). Raises ExportError without a vectors bundle."""
    name, words = vocabulary(models)
    paths = [f"/similar?word={quote(word)}&model={quote(name)}" for word in words]
    found: list[Row] = []
    with serve(models, {"VOISIN_LOG_LEVEL": "warning"}) as server:
        host = f"{HOST}:{server.port}"
        kinds = {
            PEER: [request("/ping", host=host)],
            "/similar cached": [request(path, host=host) for path in paths],
            "/similar computed": [
                request(path, host=host, headers={"Cache-Control": "no-cache"}) for path in paths
            ],
        }
        for concurrency in (1, 32):
            loads: dict[str, list[Load]] = {kind: [] for kind in kinds}

            def side(kind: str, concurrency: int, loads: dict[str, list[Load]]) -> float:
                load = drive(HOST, server.port, kinds[kind], concurrency=concurrency, seconds=seconds)
                loads[kind].append(load)
                return load.rate

            sides: dict[str, Callable[[], float]] = {
                kind: partial(side, kind, concurrency, loads) for kind in kinds
            }
            rates = interleave(sides, rounds=rounds)
            question = f"requests, {concurrency} connection{'s' * (concurrency > 1)}"
            found += rows(question, rates, unit="requests/s", peer=PEER)
            for q in (50, 99):
                # the first load of each kind was the warm-up
                waits = {kind: [load.percentile(q) for load in some[1:]] for kind, some in loads.items()}
                found += rows(f"{question}, p{q}", waits, unit="ms", peer=PEER)
    return found


def vocabulary(models: Path) -> tuple[str, list[str]]:
    """The first vectors bundle of a folder and some of its words, from the most frequent on."""
    for folder in sorted(path.parent for path in models.glob(f"*/{MANIFEST}")):
        model = open_bundle(folder, check=False)
        if isinstance(model, Vectors):
            words = [word for word in model.tokenizer.words() if word in model and word.isalpha()]
            return model.manifest.name, words[:WORDS]
    raise ExportError(f"{models}: no vectors bundle there")
