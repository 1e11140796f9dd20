"""Encoder-decoder with attention against without, by the length of the source (as in Bahdanau et al. 2015).

Without attention the whole source has to pass through the last state of the encoder; the longer the
sentence, the more is lost. Both sides have the same parameters and the same training tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from training import corpus
from training.ablations.job import Job, Trained
from training.ablations.report import Cell, Table
from training.config import Recipe
from training.evaluate import corpus_scores
from training.generate import translate

#: the wider state pays for the parameters of the attention
SIDES: Mapping[str, Sequence[str]] = {
    "with attention": (),
    "without": ("model.attention=false", "model.hidden=224"),
}
#: words of the shortest source of each bucket
BUCKETS = (1, 5, 8, 12)
MOST = 250

Pair = tuple[str, str]


def run(job: Job) -> list[Table]:
    """Trains both and translates the same sentences of the test half, greedily."""
    found: dict[str, list[tuple[float, float]]] = {}
    sides: list[list[Cell]] = []
    for side, changes in SIDES.items():
        trained = job.train(job.recipe("attention", *changes), side.replace(" ", "-"))
        buckets = sources_by_length(trained.recipe, BUCKETS, MOST)
        found[side] = [scores(trained, pairs) for pairs in buckets]
        sides.append([side, trained.parameters, trained.steps, trained.tokens, trained.seconds])
    rows: list[list[Cell]] = []
    for at, name in enumerate(names(BUCKETS)):
        with_it, without = (found[side][at] for side in SIDES)
        rows.append(
            [name, len(buckets[at]), with_it[0], without[0], with_it[0] - without[0], with_it[1], without[1]]
        )
    return [
        Table(
            title="The two sides.",
            columns=["LSTM", "parameters", "steps", "target tokens", "s"],
            rows=sides,
        ),
        Table(
            title=f"English to French, test half of the held-out {trained.recipe.corpus.held_out:.0%} of "
            "Tatoeba, greedy, one reference.",
            columns=[
                "words in the source",
                "sentences",
                "BLEU with",
                "BLEU without",
                "gain",
                "chrF with",
                "chrF without",
            ],
            rows=rows,
        ),
    ]


def sources_by_length(recipe: Recipe, buckets: Sequence[int], most: int) -> list[list[Pair]]:
    """Pairs of the test half by the words of the source, at most so many a bucket, each source once."""
    languages = (recipe.languages[0], recipe.languages[1])
    share = recipe.corpus.held_out
    split: corpus.Split = "test" if share else "all"
    pairs = corpus.pairs(recipe.corpus.sources, languages, held_out=share, split=split, seed=recipe.seed)
    return by_length(pairs, buckets, most)


def by_length(pairs: Iterable[Pair], buckets: Sequence[int], most: int) -> list[list[Pair]]:
    """The first ``most`` pairs of each bucket, a source once; ``buckets`` begins with the fewest words."""
    chosen: list[list[Pair]] = [[] for _ in buckets]
    seen = set()
    for source, target in pairs:
        place = sum(len(source.split()) >= least for least in buckets) - 1
        if place >= 0 and source not in seen and len(chosen[place]) < most:
            seen.add(source)
            chosen[place].append((source, target))
    return chosen


def names(buckets: Sequence[int]) -> list[str]:
    """``1-4``, ``5-7``, ``12 and more``."""
    ends = [f"{one}-{two - 1}" for one, two in pairwise(buckets)]
    return [*ends, f"{buckets[-1]} and more"]


def scores(trained: Trained, pairs: Sequence[Pair]) -> tuple[float, float]:
    """BLEU and chrF of greedy translations; 0 where there is nothing to score."""
    if not pairs:
        return 0.0, 0.0
    sources = [source for source, _ in pairs]
    longest = trained.recipe.train.max_tokens
    hypotheses = translate(trained.model, trained.tokenizer, sources, max_tokens=longest)
    found = corpus_scores(hypotheses, [target for _, target in pairs])
    return float(found.get("bleu", 0.0)), float(found["chrf"])
