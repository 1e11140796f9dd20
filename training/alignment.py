"""Which word of a sentence translates which: IBM Model 1 with a preference for the diagonal.

Model 1 (Brown et al. 1993) learns p(target word | source word) from pairs of sentences by expectation
maximisation; the preference for like places in both sentences is that of Dyer et al. 2013, with a fixed
tension. Both directions are learned, and the links on which they agree are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Link = tuple[int, int]

_TENSION = 4.0  # of Dyer et al. 2013
_NULL = 0.08  # share of target words that no source word accounts for


@dataclass(frozen=True)
class _Grid:
    """Every (source word, target word) of every sentence, side by side.

    cell: number of the word pair, int64[links]; word: number of the target word's place among all target
    words, int64[links]; prior: float64[links], summing to one over each target word.
    """

    cell: Ids
    word: Ids
    source: Ids
    prior: NDArray[np.float64]


def align(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], *, iterations: int = 5) -> list[list[Link]]:
    """Links (source place, target place) of each pair of tokenised sentences, from 0, sorted.

    Time and memory grow with the products of the lengths of both sides: leave very long sentences out.
    """
    forward = _best(pairs, iterations)
    backward = _best([(target, source) for source, target in pairs], iterations)
    return [
        sorted(
            {(i, j) for j, i in enumerate(one) if i >= 0} & {(i, j) for i, j in enumerate(other) if j >= 0}
        )
        for one, other in zip(forward, backward, strict=True)
    ]


def _best(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], iterations: int) -> list[list[int]]:
    """For each target word the likeliest source place, -1 for none."""
    grid = _grid(pairs)
    if not len(grid.cell):
        return [[-1] * len(target) for _, target in pairs]
    words = int(grid.word[-1]) + 1
    cells = int(grid.cell.max()) + 1
    sources = np.zeros(cells, np.int64)
    sources[grid.cell] = grid.source
    probability = np.ones(cells)
    posterior = grid.prior
    for _ in range(iterations):
        weight = grid.prior * probability[grid.cell]
        posterior = weight / np.bincount(grid.word, weight, words)[grid.word]
        counts = np.bincount(grid.cell, posterior, cells)
        probability = counts / np.bincount(sources, counts)[sources]
    posterior = grid.prior * probability[grid.cell]
    out = []
    at = 0
    for source, target in pairs:
        width = len(source) + 1
        block = posterior[at : at + width * len(target)].reshape(len(target), width)
        out.append((block.argmax(1) - 1).tolist() if len(target) else [])
        at += block.size
    return out


def _grid(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> _Grid:
    """Links in the order of the target words, each with NULL and then all words of its source."""
    numbers: tuple[dict[str, int], dict[str, int]] = ({"": 0}, {})
    sources, targets, priors, places = [], [], [], []
    place = 0
    for source, target in pairs:
        if not len(target):
            continue
        one = np.array([0, *(numbers[0].setdefault(word, len(numbers[0])) for word in source)], np.int64)
        two = np.array([numbers[1].setdefault(word, len(numbers[1])) for word in target], np.int64)
        sources.append(np.tile(one, len(two)))
        targets.append(np.repeat(two, len(one)))
        places.append(np.repeat(np.arange(place, place + len(two)), len(one)))
        priors.append(_diagonal(len(source), len(target)).ravel())
        place += len(two)
    if not sources:
        empty = np.zeros(0, np.int64)
        return _Grid(empty, empty, empty, np.zeros(0))
    flat_source, flat_target = np.concatenate(sources), np.concatenate(targets)
    _, cell = np.unique(flat_source * len(numbers[1]) + flat_target, return_inverse=True)
    return _Grid(cell, np.concatenate(places), flat_source, np.concatenate(priors))


def _diagonal(source: int, target: int) -> NDArray[np.float64]:
    """Prior of each link, float64[target, 1 + source]: NULL first; every row sums to one."""
    if not source:
        return np.ones((target, 1))
    along = np.abs((np.arange(target)[:, None] + 0.5) / target - (np.arange(source)[None, :] + 0.5) / source)
    near = np.exp(-_TENSION * along)
    near *= (1.0 - _NULL) / near.sum(1, keepdims=True)
    return np.concatenate([np.full((target, 1), _NULL), near], axis=1)
