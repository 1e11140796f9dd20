"""One letter, noise, then the letter again: how far back can a cell remember?

A line is ``b0110100?b``: a letter out of eight, n - 2 random bits, a question mark, and the letter once more,
n characters after it first stood (the task of Hochreiter and Schmidhuber 1997, "long time lag", with noise
between). Nothing but the memory of the cell can answer: guessing is right one time in eight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from training.ablations.job import Job, Trained, language_of
from training.ablations.report import Cell, Table
from training.config import Recipe

#: widths that give equal parameters (within 2 %)
SIDES: Mapping[str, Sequence[str]] = {
    "rnn": ("model.architecture=rnn", "model.hidden=133"),
    "gru": ("model.architecture=gru", "model.hidden=75"),
    "lstm": ("model.architecture=lstm", "model.hidden=64"),
}
LETTERS = "abcdefgh"
LONGEST = 64
"""The longest gap trained on."""
GAPS = (2, 4, 8, 16, 32, 64, 128, 256)
"""Gaps asked for; those beyond LONGEST show what carries on where training never went."""
ASKED = 500


def run(job: Job) -> list[Table]:
    """Trains the three cells on gaps up to LONGEST and asks each at growing gaps."""
    text = job.folder / "recall.txt"
    write_text(text, 20_000, LONGEST)
    curves: dict[str, list[float]] = {}
    sides: list[list[Cell]] = []
    for side, changes in SIDES.items():
        trained = job.train(with_text(job.recipe("recall", *changes), text), side)
        curves[side] = [100.0 * accuracy(trained, gap, ASKED) for gap in GAPS]
        sides.append([side, trained.parameters, trained.tokens, trained.seconds])
    return [
        Table(title="The cells.", columns=["cell", "parameters", "characters trained on", "s"], rows=sides),
        Table(
            title=f"Letters remembered after n characters, in % of {ASKED:,} fresh lines (guessing: 12.5; "
            f"trained up to {LONGEST}).",
            columns=["n", *curves],
            rows=[[gap, *(curve[at] for curve in curves.values())] for at, gap in enumerate(GAPS)],
        ),
    ]


def write_text(path: Path, count: int, longest: int) -> None:
    """Writes the lines to learn from, the same at every call.

    Gaps from 2 to ``longest``, each octave equally often: the short ones teach what the task is.
    """
    random = np.random.default_rng(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    gaps = np.exp(random.uniform(math.log(2), math.log(longest + 1), count)).astype(int)
    text = "".join(f"{line(int(gap), random)}\n" for gap in gaps)
    path.write_text(text, encoding="utf-8")


def line(gap: int, random: np.random.Generator) -> str:
    """One line; its last character is the first, ``gap`` characters later."""
    letter = LETTERS[int(random.integers(len(LETTERS)))]
    noise = "".join("01"[bit] for bit in random.integers(0, 2, gap - 2))
    return f"{letter}{noise}?{letter}"


def with_text(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the path of its first source replaced."""
    first, *others = recipe.corpus.sources
    sources = [msgspec.structs.replace(first, path=str(path)), *others]
    corpus = msgspec.structs.replace(recipe.corpus, sources=sources)
    return msgspec.structs.replace(recipe, corpus=corpus)


def accuracy(trained: Trained, gap: int, count: int) -> float:
    """Share of fresh lines of one gap whose letter is the likeliest of the letters."""
    random = np.random.default_rng([2, gap])
    encode, special = trained.tokenizer.encode, trained.tokenizer.special
    ids = torch.tensor([[special.bos or 0, *encode(line(gap, random))] for _ in range(count)])
    letters = torch.tensor(encode(LETTERS))
    with torch.inference_mode():
        logits, _ = language_of(trained)(ids[:, :-1])
    best = letters[logits[:, -1, letters].argmax(dim=-1)]
    return float((best == ids[:, -1]).double().mean())
