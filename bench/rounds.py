"""Rounds that alternate between sides, and what is made of them: medians, ratios, a table, a JSON file."""

from __future__ import annotations

import gc
import json
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

OUT = Path(__file__).parent / "out"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One side of one question."""

    question: str
    side: str
    unit: str
    median: float
    lowest: float
    highest: float
    peer: str
    """The side that `ratio` is against."""
    ratio: float
    """Median over the rounds of this side's value divided by the peer's in the same round."""


def interleave(sides: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Values of each side, a round of all of them after the other; the order turns from round to round.

    One unmeasured round warms up. What was there before is frozen, as the service does it: collections of
    cycles would walk through all that torch has loaded, and count as the time of whose objects set them off.
    """
    names = list(sides)
    for name in names:
        sides[name]()
    gc.collect()
    gc.freeze()
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            gc.collect()
            values[name].append(sides[name]())
    return values


def rows(question: str, values: Mapping[str, Sequence[float]], *, unit: str, peer: str) -> list[Row]:
    """A row for each side."""
    return [
        Row(
            question=question,
            side=side,
            unit=unit,
            median=statistics.median(found),
            lowest=min(found),
            highest=max(found),
            peer=peer,
            ratio=statistics.median(one / two for one, two in zip(found, values[peer], strict=True)),
        )
        for side, found in values.items()
    ]


def save(name: str, found: Sequence[Row]) -> Path:
    """Writes bench/out/NAME.json."""
    from export.speed import processor  # which brings torch; a machine with a GPU need not have it

    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.json"
    report = {
        "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": processor(),
        "python": platform.python_version(),
        "rows": [asdict(row) for row in found],
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path


def table(found: Sequence[Row]) -> str:
    """The rows as text, aligned."""
    head = ("question", "side", "median", "lowest", "highest", "unit", "ratio")
    cells = [
        (
            row.question,
            row.side,
            f"{row.median:,.4g}" if row.median < 1e3 else f"{row.median:,.0f}",
            f"{row.lowest:,.4g}" if row.lowest < 1e3 else f"{row.lowest:,.0f}",
            f"{row.highest:,.4g}" if row.highest < 1e3 else f"{row.highest:,.0f}",
            row.unit,
            "(peer)" if row.side == row.peer else f"{row.ratio:.2f} x {row.peer}",
        )
        for row in found
    ]
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(len(head))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *cells]
    )
