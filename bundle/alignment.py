"""Which word of a translation stands for which word of the source, from the attention of the model.

A row of attention says where the decoder looked when it chose a token, given those before it (Bahdanau et al.
2015). With the two layers of the bundles that ship, that errs far less than where it looked once the token
was given, which is better in some deeper models (Chen et al. 2020).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.edits import Span

Weights = NDArray[np.float32]

# aujourd'hui, don't; l' and eau apart; a mark by itself
_WORD = re.compile(r"\w+(?:['’]\w{1,2}(?!\w))+|\w+['’]?|[^\w\s]")


class Link(NamedTuple):
    """Characters of the source, characters of the translation, and the weight of the link, 0 to 1."""

    source: Span
    target: Span
    weight: float


def words_of(text: str, atoms: Sequence[Span] = ()) -> list[Span]:
    """The words and marks of ``text``; each of ``atoms`` is one, whatever it holds."""
    found: list[Span] = []
    at = 0
    for start, end in (*atoms, (len(text), len(text))):
        found += [match.span() for match in _WORD.finditer(text, at, start)]
        if end > start:
            found.append((start, end))
        at = end
    return found


def word_weights(
    attention: Weights,
    target_tokens: Sequence[Span],
    source_tokens: Sequence[Span],
    target_words: Sequence[Span],
    source_words: Sequence[Span],
) -> Weights:
    """Attention between tokens as attention between words.

    Args:
        attention: ``[time, source]``: a row for each of ``target_tokens``, a column for each of
            ``source_tokens``; further ones (eos) are left out.
        target_tokens, source_tokens: characters of each token.
        target_words, source_words: characters of each word.

    Returns:
        ``[target words, source words]``: the mean over a word's tokens, rows summing to one; a word without a
        token has zeros.
    """
    rows = _shares(target_words, target_tokens)
    columns = _shares(source_tokens, source_words)
    rows /= np.maximum(rows.sum(axis=1, keepdims=True), 1e-9)
    columns /= np.maximum(columns.sum(axis=1, keepdims=True), 1e-9)
    weights = rows @ attention[: len(target_tokens), : len(source_tokens)] @ columns
    total = weights.sum(axis=1, keepdims=True)
    shares: Weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return shares


def best_links(weights: Weights, target_words: Sequence[Span], source_words: Sequence[Span]) -> list[Link]:
    """For each word of the target the word of the source that it looks at most."""
    if not weights.size:
        return []
    best = weights.argmax(axis=1)
    return [
        Link(source_words[best[row]], target_words[row], round(float(weights[row, best[row]]), 4))
        for row in range(len(target_words))
        if weights[row].any()
    ]


def _shares(these: Sequence[Span], those: Sequence[Span]) -> NDArray[np.float32]:
    """How many characters each of these has in common with each of those."""
    a = np.array(these, np.float32).reshape(-1, 1, 2)
    b = np.array(those, np.float32).reshape(1, -1, 2)
    common = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    shares: NDArray[np.float32] = np.maximum(common, 0).astype(np.float32)
    return shares
