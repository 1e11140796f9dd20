"""What subsampling of frequent words and phrases (Mikolov et al. 2013b) do to word vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from training import word2vec
from training.ablations.job import Job
from training.ablations.report import Cell, Table
from training.config import Recipe
from training.similarity import PAIRS, QUESTIONS, Space, agreement, analogies, evaluation_file

SIDES: Mapping[str, Sequence[str]] = {
    "neither": (),
    "subsampling 1e-4": ("vectors.subsample=1e-4",),
    "phrases": ("vectors.phrases=1",),
    "both": ("vectors.subsample=1e-4", "vectors.phrases=1"),
}
PROBES = ("rome", "king", "york", "new_york", "guitar", "the")
NEIGHBOURS = 6


def run(job: Job) -> list[Table]:
    """Trains the four and looks at them: public sets, and neighbours of a few words."""
    scores: list[list[Cell]] = []
    near: list[list[Cell]] = [[probe] for probe in PROBES]
    for side, changes in SIDES.items():
        space, seconds = _trained(job, job.recipe("neighbours", *changes), side.replace(" ", "-"))
        scores.append([side, len(space.words), seconds, *measures(space)])
        for row in near:
            row.append(neighbours(space, str(row[0])))
    return [
        Table(
            title="Spearman's rho on the known pairs; analogies right, in % of those with four known words.",
            columns=["side", "words known", "s", "WordSim-353", "SimLex-999", "semantic", "syntactic"],
            rows=scores,
        ),
        Table(
            title="Nearest words.",
            columns=["word", *SIDES],
            rows=near,
        ),
    ]


def measures(space: Space) -> list[Cell]:
    """WordSim-353, SimLex-999, semantic and syntactic questions-words; None where nothing is known."""
    found: list[Cell] = []
    for name in ("wordsim353", "simlex999"):
        agreed = agreement(space, evaluation_file(PAIRS[name]))
        found.append(agreed.spearman if agreed.known > 2 else None)
    sections = analogies(space, evaluation_file(QUESTIONS))
    for syntactic in (False, True):
        chosen = [one for one in sections if one.name.startswith("gram") == syntactic]
        known, right = sum(one.known for one in chosen), sum(one.correct for one in chosen)
        found.append(100.0 * right / known if known else None)
    return found


def neighbours(space: Space, word: str) -> str:
    """The nearest words of one, or that it is unknown."""
    if word not in space.index:
        return "(unknown)"
    return ", ".join(near for near, _ in space.most_similar([word], topn=NEIGHBOURS))


def _trained(job: Job, recipe: Recipe, side: str) -> tuple[Space, float]:
    """Vectors of a side, trained unless its folder holds them, and the processor time of their training."""
    times = job.times(recipe, side)
    if times is None:
        folder = job.begin(recipe, side)
        begun = time.process_time()
        word2vec.fit(recipe, folder)
        job.finish(side, {"seconds": round(time.process_time() - begun, 1)})
        times = job.times(recipe, side)
        assert times is not None
    words, vectors, _ = word2vec.load_run(job.folder / side)
    return Space(words, vectors), times["seconds"]
