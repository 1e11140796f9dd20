"""What word vectors say of several words: how alike, which is odd, how near, and analogies by multiplication.

Every vector counts as a unit vector, so no word weighs more than another for having been seen more often.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InvalidRequest
from bundle.nearest import ranked
from bundle.vectors import Key, Vectors

_ADDED = 1e-6  # to the denominator, so that nothing is divided by zero (Levy and Goldberg 2014)


def similarity(vectors: Vectors, one: Sequence[str], other: Sequence[str]) -> float:
    """Cosine of two words, or of the means of two sets of words.

    Raises:
        UnknownWord: the vocabulary lacks a word, and it cannot be composed.
        InvalidRequest: a set is empty.
    """
    for name, words in (("one", one), ("other", other)):
        if not words:
            raise InvalidRequest(name, "at least one word is needed")
    return float(_mean(vectors, one) @ _mean(vectors, other))


def _mean(vectors: Vectors, words: Sequence[str]) -> NDArray[np.float64]:
    """The unit vector of the mean."""
    return vectors.rows.vector(vectors.embed(words).sum(0, dtype=np.float64)).unit


def centrality(vectors: Vectors, words: Sequence[str]) -> list[tuple[str, float]]:
    """Words with their cosines to the mean of all of them, the nearest first: the last is the odd one out.

    Raises:
        UnknownWord: the vocabulary lacks a word, and it cannot be composed.
        InvalidRequest: there is no word.
    """
    if not words:
        raise InvalidRequest("words", "at least one word is needed")
    scores = vectors.embed(words) @ _mean(vectors, words)
    return sorted(zip(words, scores.tolist(), strict=True), key=lambda each: (each[1], each[0]), reverse=True)


def rank(vectors: Vectors, word: str, other: str) -> tuple[int, float]:
    """The place of ``other`` among the words that are near ``word`` (1 = the nearest), and their cosine.

    Raises:
        UnknownWord: the vocabulary lacks a word, and it cannot be composed.
    """
    rows = vectors.rows
    own, key = vectors.key(word), vectors.key(other)
    query = vectors.query({own: 1.0})
    if isinstance(key, int):
        score = float(rows.cosines(query, np.array([key]))[0])
    else:
        score = float(np.float32(vectors.query({key: 1.0}).unit @ query.unit))
    cosines, error = rows.scan(query, rows.size)
    for unwanted in (rows.blank, vectors.no_answers([key for key in (own,) if isinstance(key, int)])):
        cosines[unwanted] = -np.inf
    sure = int((cosines > score + error).sum())
    doubtful = np.flatnonzero(np.abs(cosines - np.float32(score)) <= np.float32(error))
    return 1 + sure + int((rows.cosines(query, doubtful) > score).sum()), score


def most_similar_by_product(
    vectors: Vectors, positive: Sequence[str], negative: Sequence[str] = (), topn: int = 10, *, among: int = 0
) -> list[tuple[str, float]]:
    """Analogies by multiplication (3CosMul, Levy and Goldberg 2014).

    A word's score is the product of its cosines with ``positive`` over that with ``negative``, each cosine
    moved to 0..1. No single large cosine outweighs the others, as it may in a sum.

    Args:
        among: only the first so many words of the vocabulary are answers; 0 = all.

    Returns:
        At most ``topn`` words with their scores, best first; the words asked with are not among them.

    Raises:
        UnknownWord: the vocabulary lacks a word, and it cannot be composed.
        InvalidRequest: ``positive`` is empty, or ``topn`` below 1.
    """
    if topn < 1:
        raise InvalidRequest("topn", "must be at least 1", limit=1)
    if not positive:
        raise InvalidRequest("positive", "at least one word is needed where cosines are multiplied")
    limit = vectors.first_rows(among)
    keys: list[Key] = [vectors.key(word) for word in (*positive, *negative)]
    split = len(positive)
    above, below = _product(vectors, keys[:split], limit), _product(vectors, keys[split:], limit)
    scores = (above / (below + np.float32(_ADDED))).astype(np.float32)
    unwanted = np.union1d(
        vectors.rows.blank, vectors.no_answers([key for key in keys if isinstance(key, int)])
    )
    ids = np.setdiff1d(np.arange(limit), unwanted, assume_unique=True)
    best, values = ranked(ids, scores[ids], topn)
    return [(vectors.word_of(id), value) for id, value in zip(best.tolist(), values.tolist(), strict=True)]


def _product(vectors: Vectors, keys: Sequence[Key], limit: int) -> NDArray[np.float32]:
    found = np.ones(limit, np.float32)
    for key in keys:
        found *= (1 + vectors.rows.all_cosines(vectors.query({key: 1.0}), limit)) / 2
    return found
