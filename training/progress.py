"""What a job says while it runs and leaves behind: the bar, ``metrics.jsonl`` and ``curves.png``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, TextIO

import msgspec
from tqdm import tqdm


class Progress:
    """Progress bar with loss, tokens/s and time left; plain lines, seldom, where nobody watches."""

    def __init__(self, name: str, done: float, stream: TextIO | None = None, *, shown: bool = True) -> None:
        stream = sys.stderr if stream is None else stream
        self._bar = tqdm(
            total=1.0,
            initial=done,
            desc=name,
            file=stream,
            mininterval=0.2 if stream.isatty() else 20.0,
            bar_format="{desc} {percentage:3.0f}%|{bar:20}| {elapsed}{postfix}",
            dynamic_ncols=stream.isatty(),
            disable=not shown,
        )
        self._begun = time.perf_counter()
        self._first = done
        self._tokens = 0

    def update(self, done: float, step: int, loss: float, tokens: int) -> None:
        """``done`` of 1.0 after ``step`` steps; ``tokens`` more were trained on, at ``loss`` nats each."""
        self._tokens += tokens
        past = time.perf_counter() - self._begun
        share = done - self._first
        speed = self._tokens / max(past, 1e-9)
        left = past * (1.0 - done) / share if share > 0 else 0.0
        self._bar.set_postfix_str(
            f"step {step}, loss {loss:.3f}, {speed:,.0f} tokens/s, ETA {_clock(left)}", refresh=False
        )
        self._bar.update(done - self._bar.n)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if not self._bar.disable:
            self._bar.write(text, file=self._bar.fp)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


class Metrics:
    """``metrics.jsonl``: one object a line, each with its ``step``."""

    def __init__(self, path: Path, step: int = 0, *, kept: bool = True) -> None:
        """Opens for appending. What a killed job wrote after its last checkpoint (``step``) is dropped.

        kept: False writes nothing.
        """
        self._path = path if kept else None
        if kept:
            records = [record for record in read_metrics(path) if step and record["step"] <= step]
            path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record."""
        if self._path is None:
            return
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; none where there is no file. A last line cut off by a kill is
    ignored."""
    records: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                records.append(msgspec.json.decode(line))
            except msgspec.DecodeError:
                continue
    return records


def draw_curves(metrics: Path, picture: Path, title: str) -> None:
    """Draws the loss on the training and the held-out text, and the learning rate, over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_metrics(metrics)
    trained = [record for record in records if "loss" in record]
    evaluated = [record for record in records if "evaluation" in record]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([r["step"] for r in trained], [r["loss"] for r in trained], label="training", linewidth=1)
    held_out = [r["evaluation"]["loss"] for r in evaluated]
    axes.plot([r["step"] for r in evaluated], held_out, "o-", label="held out", markersize=3)
    axes.set(title=title, xlabel="step", ylabel="loss (nats per token)")
    rates = axes.twinx()
    learning = [r["learning_rate"] for r in trained]
    rates.plot([r["step"] for r in trained], learning, ":", color="grey", linewidth=1)
    rates.set_ylabel("learning rate (dotted)")
    axes.legend()
    figure.savefig(picture, dpi=100)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
