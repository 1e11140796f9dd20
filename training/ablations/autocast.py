"""What bf16 autocast does to the pace of a training step on this processor, beside fp32.

Where the processor has bf16 units (AMX, AVX512-BF16) there is speed to gain; where it has none there are
conversions to pay. Time is processor time; the two sides take turns, and the ratio is the median over
the turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from bundle.tokenizer import Tokenizer
from training.ablations.job import Job, TimedLoop, make_loop
from training.ablations.report import Cell, Table
from training.config import Recipe
from training.device import bf16_units
from training.prepare import make_tokenizer

SIDES: Mapping[str, Sequence[str]] = {
    "fp32": ("train.precision=fp32",),
    "bf16 autocast": ("train.precision=bf16",),
}
MODELS: Mapping[str, Sequence[str]] = {
    "transformer": (),
    "lstm": ("model.architecture=lstm", "model.layers=1", "model.hidden=318", "model.embedding=128"),
}
ROUNDS = 5


def run(job: Job) -> list[Table]:
    """Times a few steps of each."""
    rows: list[list[Cell]] = []
    for model, shape in MODELS.items():
        recipes = {side: job.recipe("autocast", *shape, *changes) for side, changes in SIDES.items()}
        loops = {side: _loop(recipe, job.folder / model) for side, recipe in recipes.items()}
        turns: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(ROUNDS):
            for side, loop in loops.items():
                loop.seconds = 0.0
                loop.advance()
                turns[side].append(loop.seconds)
        ratio = statistics.median(two / one for one, two in zip(*turns.values(), strict=True))
        rows.append([model, *(statistics.median(found) for found in turns.values()), ratio])
    return [
        Table(
            title=f"Seconds a step of one thread, median of {ROUNDS} turns; bf16 units here: {_units()}.",
            columns=["model", *SIDES, "times as slow"],
            rows=rows,
        )
    ]


def _loop(recipe: Recipe, folder: Path) -> TimedLoop:
    torch.set_num_threads(1)
    make_tokenizer(recipe, folder / "tokenizer.json")
    loop = make_loop(recipe, Tokenizer.load(folder / "tokenizer.json"), folder, "")
    loop.advance()
    return loop


def _units() -> str:
    return ", ".join(bf16_units(torch.device("cpu"))) or "none"
