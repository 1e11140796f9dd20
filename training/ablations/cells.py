"""RNN, GRU or LSTM at equal parameters: bits per character on real text, and how much context each uses.

The context that a cell uses is measured as in Khandelwal et al. 2018: the same characters are predicted from
the n characters before them and nothing else, from the zero state. Where more context no longer lowers the
loss, the cell has forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from training.ablations.job import Job, Trained, batches_of, language_of, unseen_lines
from training.ablations.report import Cell, Table
from training.evaluate import language_scores

#: widths that give equal parameters (within 2 %). One learning rate for all: of 1, 2 and 4 thousandths the
#: RNN, the most delicate, had the lowest development loss after 100 steps at 4.
SIDES: Mapping[str, Sequence[str]] = {
    "rnn": ("model.architecture=rnn", "model.hidden=470"),
    "gru": ("model.architecture=gru", "model.hidden=279"),
    "lstm": ("model.architecture=lstm", "model.hidden=242"),
}
CONTEXTS = (1, 2, 4, 8, 16, 32, 64, 128)
LINES = 400
POSITIONS = 2000
_ROWS = 250  # places predicted at once


def run(job: Job) -> list[Table]:
    """Trains the three on the same tokens and measures them on the same unseen text."""
    curves: dict[str, list[float]] = {}
    scores: list[list[Cell]] = []
    for side, changes in SIDES.items():
        trained = job.train(job.recipe("cells", *changes), side)
        lines = unseen_lines(trained.recipe, LINES)
        found = language_scores(language_of(trained), batches_of(trained, lines), lines)
        curves[side] = context_losses(trained, lines, CONTEXTS, POSITIONS)
        scores.append(
            [
                side,
                trained.parameters,
                trained.tokens,
                trained.seconds,
                round(trained.speed),
                found["bits_per_character"],
            ]
        )
    rows = [[n, *(curve[at] for curve in curves.values())] for at, n in enumerate(CONTEXTS)]
    return [
        Table(
            title=f"Bits per character on {len(lines):,} unseen lines of the test half.",
            columns=[
                "cell",
                "parameters",
                "characters trained on",
                "s",
                "characters/s",
                "bits per character",
            ],
            rows=scores,
        ),
        Table(
            title=f"Bits for a character given the n before it and nothing else ({POSITIONS:,} places).",
            columns=["n", *curves],
            rows=rows,
        ),
    ]


def context_losses(
    trained: Trained, lines: Sequence[str], contexts: Sequence[int], count: int
) -> list[float]:
    """Bits of the same characters given the last n before them, for each n of ``contexts``.

    Every place has the longest context before it within its line. Places are drawn evenly.

    Raises: ValueError where no line is longer than the longest context.
    """
    longest = max(contexts)
    windows = []
    for line in lines:
        ids = trained.tokenizer.encode(line)
        windows += [ids[at - longest : at + 1] for at in range(longest, len(ids))]
    if not windows:
        raise ValueError(f"no line has more than {longest} characters")
    order = np.random.default_rng(0).permutation(len(windows))[:count]
    places = torch.tensor([windows[at] for at in order])
    return [_bits(trained, places[:, longest - n : longest], places[:, longest]) for n in contexts]


def _bits(trained: Trained, context: torch.Tensor, following: torch.Tensor) -> float:
    model, total = language_of(trained), 0.0
    with torch.inference_mode():
        for start in range(0, len(following), _ROWS):
            part = slice(start, start + _ROWS)
            logits, _ = model(context[part])
            total += F.cross_entropy(logits[:, -1], following[part], reduction="sum").item()
    return total / math.log(2) / len(following)
