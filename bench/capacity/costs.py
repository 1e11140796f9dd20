"""What a service costs, as it was measured: the numbers that the simulation is fed with, in one JSON file."""

from __future__ import annotations

from pathlib import Path

import msgspec

COSTS = Path(__file__).parent.parent / "capacity.json"
"""The file that is committed: `python -m bench capacity --measure` writes it."""

Part = tuple[int, int, int]
"""One request to a decoder: tokens it reads, rows it takes, steps it stays."""


class Job(msgspec.Struct, frozen=True):
    """One text: what it means for admission (`cost` tokens, a text each part) and for the decoder."""

    cost: int
    parts: list[Part]


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """A model: seconds of a processor that one step of its decoder takes, as a sum, and jobs as they came.

    step = running * (any row runs) + row * (running rows)
         + begin * (any request begins) + begun * (rows that begin) + token * (tokens they read)

    `python` is the share of a step that needs the interpreter, which one thread has at a time. `error` is the
    median of |fitted - measured| / measured over the steps of different work.
    """

    model: str
    running: float
    row: float
    begin: float
    begun: float
    token: float
    python: float
    error: float
    jobs: list[Job]

    def step(self, rows: int, begun: int, tokens: int) -> float:
        """Seconds of a step with `rows` running, while `begun` rows begin by reading `tokens`."""
        seconds = self.running + self.row * rows if rows else 0.0
        return seconds + (self.begin + self.begun * begun + self.token * tokens if begun else 0.0)


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Processor seconds of the event loop for one request, and the bytes of its answer in the cache."""

    hit: float
    miss: float
    bytes: int


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, with when and on what it was measured."""

    made: str
    machine: str
    routes: dict[str, Route]
    lanes: dict[str, list[Lane]]
    other: dict[str, float]
    """Measured beside it, for the reader: seconds of a trivial route, and of a scan of the vocabulary."""


def read(path: Path = COSTS) -> Costs:
    """The costs of a file.

    Raises:
        OSError: there is none.
        msgspec.ValidationError: it is not such a file.
    """
    return msgspec.json.decode(path.read_bytes(), type=Costs)


def write(costs: Costs, path: Path = COSTS) -> None:
    """Writes the file: a few lines, jobs and all."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(costs), indent=0).replace(b"\n", b" ") + b"\n")
