"""How many nearest-word answers a second, beside the most trivial route of the server, and beside gensim?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from bench.load import Load, drive, processor_seconds, request
from bench.rounds import Row, interleave, rows
from bundle.load import open_bundle
from bundle.manifest import MANIFEST
from bundle.vectors import Vectors
from export import ExportError
from export.server import HOST, Server, serve
from tests.bundle.wordy import draw, make_words, spell

PEER = "/ping"
WORDS = 256
LARGE, HIDDEN = 400_000, 100
_IDLE = 0.01
"""Of a core; what a server takes that has prepared its words, and only looks around now and then."""
_FRESH = {"Cache-Control": "no-cache"}
_QUIET = {"VOISIN_LOG_LEVEL": "warning"}
_FORGETFUL = {"VOISIN_CACHE_ENTRIES": "16"}


def measure(models: Path, *, rounds: int = 5, seconds: float = 1.5) -> list[Row]:
    """Requests a second and latency: :func:`beside_ping` and :func:`beside_gensim`.

    Raises ExportError without a vectors bundle.
    """
    return beside_ping(models, rounds=rounds, seconds=seconds) + beside_gensim(rounds=rounds, seconds=seconds)


def beside_ping(models: Path, *, rounds: int, seconds: float) -> list[Row]:
    """`/ping`; `/similar` asked before; computed afresh (`no-cache`): ten neighbours, which a table of them
    has, and eleven, which are scanned for; and, of a server that remembers 16 answers, asked for the first
    time: computed and kept.
    """
    name, words = vocabulary(models)
    paths = [f"/similar?word={quote(word)}&model={quote(name)}" for word in words]
    found: list[Row] = []
    with serve(models, _QUIET) as server, serve(models, _QUIET | _FORGETFUL) as forgetful:
        host = f"{HOST}:{server.port}"
        kinds = {
            PEER: [request("/ping", host=host)],
            "/similar cached": [request(path, host=host) for path in paths],
            "/similar computed": [request(path, host=host, headers=_FRESH) for path in paths],
            "/similar scanned": [request(f"{path}&topn=11", host=host, headers=_FRESH) for path in paths],
        }
        first = {PEER: kinds[PEER], "/similar first asked": kinds["/similar cached"]}
        settle(server, forgetful)
        for connections in (1, 32):
            found += compare(server, kinds, connections, peer=PEER, rounds=rounds, seconds=seconds)
            found += compare(forgetful, first, connections, peer=PEER, rounds=rounds, seconds=seconds)
    return found


def settle(*servers: Server, patience: float = 300.0) -> None:
    """Wait until these servers have prepared their words, which takes half a minute of a part of a core.

    Raises ExportError where they are still at it after `patience` seconds.
    """
    until = time.monotonic() + patience
    for server in servers:
        share = 1.0
        while share > _IDLE:
            if time.monotonic() > until:
                raise ExportError(f"a server is still busy after {patience:g} s")
            began, before = time.monotonic(), processor_seconds(server.process.pid)
            time.sleep(1.0)
            share = (processor_seconds(server.process.pid) - before) / (time.monotonic() - began)


def beside_gensim(*, rounds: int, seconds: float) -> list[Row]:
    """gensim's `most_similar` as a route of the same server, over the same 400,000 vectors of 100 numbers."""
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch) / "models"
        asked = 2.0 * LARGE * HIDDEN * (WORDS + 8)  # the table has the words that are asked for
        make_words(models / "words-en", spell(LARGE), draw(LARGE, HIDDEN), operations=asked)
        words = [quote(word) for word in spell(WORDS)]
        with serve(models, _QUIET, patience=300, module="bench.gensim_server") as server:
            host = f"{HOST}:{server.port}"
            kinds = {
                "gensim": [request(f"/gensim?word={word}", host=host) for word in words],
                "/similar cached": [request(f"/similar?word={word}", host=host) for word in words],
                "/similar computed": [
                    request(f"/similar?word={word}", host=host, headers=_FRESH) for word in words
                ],
                "/similar scanned": [
                    request(f"/similar?word={word}&topn=11", host=host, headers=_FRESH) for word in words
                ],
            }
            label = f"{LARGE:,} x {HIDDEN}: "
            return compare(server, kinds, 4, peer="gensim", rounds=rounds, seconds=seconds, label=label)


def compare(
    server: Server,
    kinds: Mapping[str, Sequence[bytes]],
    connections: int,
    *,
    peer: str,
    rounds: int,
    seconds: float,
    label: str = "",
) -> list[Row]:
    """Requests a second of each kind, by the clock and of the server's processor time; waits; in turns."""
    loads: dict[str, list[Load]] = {kind: [] for kind in kinds}

    def side(kind: str) -> float:
        load = drive(
            HOST,
            server.port,
            kinds[kind],
            concurrency=connections,
            seconds=seconds,
            server=server.process.pid,
        )
        loads[kind].append(load)
        return load.rate

    sides: dict[str, Callable[[], float]] = {kind: partial(side, kind) for kind in kinds}
    question = f"{label}requests, {connections} connection{'s' * (connections > 1)}"
    found = rows(question, interleave(sides, rounds=rounds), unit="requests/s", peer=peer)
    # the first load of each kind was the warm-up
    rates = {kind: [load.processor_rate for load in some[1:]] for kind, some in loads.items()}
    found += rows(f"{question}, server's processor", rates, unit="requests/s", peer=peer)
    for q in (50, 99):
        waits = {kind: [load.percentile(q) for load in some[1:]] for kind, some in loads.items()}
        found += rows(f"{question}, p{q}", waits, unit="ms", peer=peer)
    return found


def vocabulary(models: Path) -> tuple[str, list[str]]:
    """The first vectors bundle of a folder and some of its words, from the most frequent on."""
    for folder in sorted(path.parent for path in models.glob(f"*/{MANIFEST}")):
        model = open_bundle(folder, check=False)
        if isinstance(model, Vectors):
            words = [word for word in model.tokenizer.words() if word in model and word.isalpha()]
            return model.manifest.name, words[:WORDS]
    raise ExportError(f"{models}: no vectors bundle there")
