"""What an ablation found: tables as JSON, as Markdown, and between the markers of a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bundle.errors import VoisinError

Cell = str | int | float | None


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Numbers side by side. ``title`` says what is measured, on what."""

    title: str
    columns: list[str]
    rows: Sequence[Sequence[Cell]]


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question answered.

    about: how it was asked, in sentences.
    command: what gives these numbers again.
    minutes: processor time of the training steps in all, without evaluations.
    """

    name: str
    question: str
    about: str
    command: str
    minutes: float
    tables: list[Table]


class ResultsError(VoisinError):
    """A document whose markers are damaged."""


def markdown(report: Report) -> str:
    """How the question was asked, the command that asks it again, and the tables under their titles."""
    minutes = f"; {report.minutes:.1f} processor minutes of training" if report.minutes else ""
    parts = [report.about, f"`{report.command}`{minutes}"]
    for table in report.tables:
        lines = [
            table.columns,
            ["---"] * len(table.columns),
            *([_text(c) for c in row] for row in table.rows),
        ]
        parts += [table.title, "\n".join(f"| {' | '.join(cells)} |" for cells in lines)]
    return "\n\n".join(parts)


def markers(name: str) -> tuple[str, str]:
    """The lines of a document between which a report stands."""
    return f"<!-- ablation {name}: written by the command below -->", f"<!-- end of {name} -->"


def write_into(document: Path, report: Report) -> None:
    """Renews a report between its markers; a document without them gets it at its end, under a heading.

    Raises: ResultsError for a block that begins and does not end; the document is then left as it was.
    """
    begin, end = markers(report.name)
    text = document.read_text(encoding="utf-8")
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found:
        head, tail = f"{text.rstrip()}\n\n### {report.question}\n\n", "\n"
    elif not closed:
        raise ResultsError(f"{document}: {begin} is not followed by {end}")
    document.write_text(f"{head}{begin}\n{markdown(report)}\n{end}{tail}", encoding="utf-8")


def save(report: Report, path: Path) -> None:
    """Writes the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _text(cell: Cell) -> str:
    """Four digits of what was measured, all digits of what was counted; a bar would end the cell."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 10_000 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell.replace("|", "\\|")
