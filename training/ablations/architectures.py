"""Transformer against LSTM on the same sub-words, at equal parameters: after equal time and equal tokens.

Each is given the same processor time; the one that saw fewer tokens in it then faces the other once more at
its own number of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.ablations.job import Job, Trained, batches_of, language_of, unseen_lines
from training.ablations.report import Cell, Table
from training.evaluate import language_scores

LSTM = (
    "model.architecture=lstm",
    "model.layers=1",
    "model.hidden=318",
    "model.embedding=128",
    "train.learning_rate=4e-3",
)
SIDES: Mapping[str, Sequence[str]] = {"transformer": (), "lstm": LSTM}
LINES = 400


def run(job: Job) -> list[Table]:
    """Trains both for the recipe's minutes, then the faster one for the steps of the slower."""
    trained = {
        side: job.train(job.recipe("architectures", *changes), side) for side, changes in SIDES.items()
    }
    return [compared(trained, job)]


def compared(trained: Mapping[str, Trained], job: Job) -> Table:
    """Both after equal time, and the one that did more steps once more after as few as the other's.

    A step of either reads as many tokens, but for the few that do not fill a window.
    """
    slower, faster = sorted(trained, key=lambda side: trained[side].steps)
    rows = [_row(side, "equal time", trained[side]) for side in SIDES]
    if trained[slower].steps < trained[faster].steps:
        changes = (*SIDES[faster], "train.minutes=0.0", f"train.steps={trained[slower].steps}")
        again = job.train(job.recipe("architectures", *changes), f"{faster}-equal-steps")
        rows.append(_row(faster, "equal steps", again))
    return Table(
        title=f"{LINES:,} unseen lines of the test half, each by itself.",
        columns=[
            "model",
            "after",
            "parameters",
            "tokens",
            "s",
            "tokens/s",
            "bits per character",
            "perplexity per token",
        ],
        rows=rows,
    )


def _row(side: str, how: str, trained: Trained) -> list[Cell]:
    lines = unseen_lines(trained.recipe, LINES)
    found = language_scores(language_of(trained), batches_of(trained, lines), lines)
    return [
        side,
        how,
        trained.parameters,
        trained.tokens,
        trained.seconds,
        round(trained.speed),
        found["bits_per_character"],
        found["perplexity"],
    ]
