"""Exported vectors rank as gensim does: the checks of a `vectors` bundle before it is packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gensim.models import KeyedVectors
from gensim.models.fasttext import FastTextKeyedVectors
from msgspec import UNSET
from numpy.typing import NDArray

from bundle.errors import UnknownWord
from bundle.manifest import Check
from bundle.stepper import Graph
from bundle.vectors import Vectors
from export import ExportError

TOPN = 10
WORDS = 200
ANALOGIES = 50
UNSEEN = 100
TIE = 1e-6
"""Cosines so near each other that the order of additions decides which is larger."""

GRAPH = 1e-5
"""Largest |difference| of a cosine from the graph's, which adds in float32."""

Neighbours = list[tuple[str, float]]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a precision may differ from gensim by."""

    rankings: float | None
    """Share of queries whose ten neighbours are not gensim's in gensim's order; None: not asked."""
    cosines: float
    """Largest |difference| of the cosine of one and the same neighbour."""
    missed: float
    """Of gensim's ten nearest words, the share not found."""


BOUNDS: Mapping[str, Bounds] = {
    "fp32": Bounds(rankings=0.0, cosines=1e-5, missed=0.0),
    "fp16": Bounds(rankings=None, cosines=1e-3, missed=0.01),
    "int8": Bounds(rankings=None, cosines=0.02, missed=0.05),
}


def verify_vectors(
    model: Vectors,
    words: Sequence[str],
    matrix: NDArray[np.float32],
    precision: str,
    *,
    graph: Graph | None = None,
    ngrams: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> dict[str, Check]:
    """The checks against gensim's KeyedVectors over the trained vectors.

    graph: `vectors.onnx` as the runtime runs it, which must rank as the table read in place does.
    words, matrix: tokens by id and their vectors float32 [vocab, hidden]; rows of zeros are no words.
    ngrams: float32 [bucket, hidden] where words never seen are composed, which is checked then too.
    Raises ExportError where the bundle does not know a word that was trained.
    """
    bounds = BOUNDS[precision]
    rows = np.flatnonzero(np.any(matrix, axis=1))
    known = [words[int(row)] for row in rows]
    trained = _trained(model, known, matrix[rows], ngrams)
    rng = np.random.default_rng(seed)
    rankings, missed, asked, widest = 0, 0, 0, 0.0
    queries = _queries(known, rng)
    if ngrams is not None:
        queries += _unseen(model, known, rng)
    for positive, negative in queries:
        want = trained.most_similar(positive=positive, negative=negative, topn=TOPN)
        try:
            got = model.most_similar(positive, negative, topn=TOPN)
        except UnknownWord as error:
            raise ExportError(f"the bundle does not know {error.word!r}, which was trained") from error
        rankings += not same_ranking(got, want, bounds.cosines)
        missed += len(missing(got, want))
        asked += len(want)
        cosines = dict(want)
        widest = max([widest, *(abs(score - cosines[word]) for word, score in got if word in cosines)])
    checks = {
        "cosines_vs_gensim": Check(bound=bounds.cosines, observed=widest),
        "missed_of_ten": Check(bound=bounds.missed, observed=missed / max(1, asked)),
    }
    if graph is not None:
        checks["cosines_vs_graph"] = Check(bound=GRAPH, observed=_apart(model, graph, queries))
    if model.neighbours is not None:
        wrong = disagreements(model, sample=WORDS, seed=seed)
        checks["neighbours_vs_scan"] = Check(bound=0.0, observed=wrong / WORDS)
    if bounds.rankings is not None:
        checks["rankings_vs_gensim"] = Check(bound=bounds.rankings, observed=rankings / len(queries))
    return checks


def _apart(model: Vectors, graph: Graph, queries: Sequence[tuple[list[str], list[str]]]) -> float:
    """How far the cosines of the graph's ranking are from those of the model's, place by place."""
    asked = Vectors(model.manifest, model.tokenizer, model.rows, graph=graph)
    widest = 0.0
    for positive, negative in queries:
        found = model.most_similar(positive, negative, topn=TOPN)
        want = asked.most_similar(positive, negative, topn=TOPN)
        pairs = zip(found, want, strict=True)
        widest = max([widest, *(abs(one - other) for (_, one), (_, other) in pairs)])
    return widest


def disagreements(model: Vectors, *, sample: int, seed: int) -> int:
    """Of `sample` words, how many the table of neighbours answers otherwise than a scan does."""
    table = model.neighbours
    assert table is not None
    known = [id for id in range(table.rows) if model.word_of(id) and id not in model.rows.blank]
    drawn = np.random.default_rng(seed).choice(known, min(sample, len(known)), replace=False)
    scanned = Vectors(model.manifest, model.tokenizer, model.rows)
    return sum(
        model.nearest_to({id: 1.0}, table.width) != scanned.nearest_to({id: 1.0}, table.width)
        for id in drawn.tolist()
    )


def _trained(
    model: Vectors,
    words: Sequence[str],
    vectors: NDArray[np.float32],
    ngrams: NDArray[np.float32] | None,
) -> KeyedVectors:
    """gensim's own object over the trained rows."""
    subwords = model.manifest.subwords
    if ngrams is None or subwords is UNSET:
        if (ngrams is None) != (subwords is UNSET):
            raise ExportError("the n-grams that were trained and the subwords of the manifest do not agree")
        trained = KeyedVectors(vectors.shape[1])
        trained.add_vectors(words, vectors)
        return trained
    trained = FastTextKeyedVectors(vectors.shape[1], subwords.min_n, subwords.max_n, subwords.bucket)
    trained.add_vectors(words, vectors)
    trained.vectors_ngrams = ngrams
    return trained


def same_ranking(got: Neighbours, want: Neighbours, tie: float) -> bool:
    """Whether both name the same words in the same order; words whose cosines are within `tie` may swap."""
    if len(got) != len(want):
        return False
    return all(a == b or abs(one - two) <= tie for (a, one), (b, two) in zip(got, want, strict=True))


def missing(got: Neighbours, want: Neighbours) -> set[str]:
    """What of `want` is not in `got`, but for words that tie for the last place."""
    found = {word for word, _ in got}
    last = min((score for _, score in got), default=-1.0)
    return {word for word, score in want if word not in found and score > last + TIE}


def _queries(words: Sequence[str], rng: np.random.Generator) -> list[tuple[list[str], list[str]]]:
    """Single words, the most frequent and others from the whole vocabulary, then analogies a - b + c."""
    frequent = list(words[: WORDS // 2])
    others = [words[i] for i in rng.choice(len(words), size=min(len(words), WORDS // 2), replace=False)]
    queries: list[tuple[list[str], list[str]]] = [
        ([word], []) for word in dict.fromkeys([*frequent, *others])
    ]
    if len(words) >= 4:
        for _ in range(ANALOGIES):
            a, b, c = (words[i] for i in rng.choice(len(words), size=3, replace=False))
            queries.append(([a, c], [b]))
    return queries


def _unseen(
    model: Vectors, words: Sequence[str], rng: np.random.Generator
) -> list[tuple[list[str], list[str]]]:
    """Words that the vocabulary lacks, made of those it has: a letter doubled, one dropped, two words joined.
    Then some of them in analogies with known words."""
    made: list[str] = []
    for _ in range(UNSEEN):
        one, two = (words[i] for i in rng.choice(len(words), size=2))
        place = int(rng.integers(len(one)))
        letter = one[place]
        made += [one[:place] + letter + one[place:], one[:place] + one[place + 1 :], one + two]
    unseen = [word for word in dict.fromkeys(made) if word.strip("_") == word and model.composes(word)]
    # another spelling of what is normalised would not be gensim's word
    unseen = [word for word in unseen if model.key(word) == word][:UNSEEN]
    queries: list[tuple[list[str], list[str]]] = [([word], []) for word in unseen]
    return queries + [([word, words[0]], [words[-1]]) for word in unseen[: UNSEEN // 5]]
