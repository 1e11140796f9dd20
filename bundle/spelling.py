"""The words of a vocabulary that look most like a word it lacks."""

import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

_LONGEST = 32
_CANDIDATES = 150
_CLOSE = 0.6


class Spelling:
    """Looks through a whole vocabulary in a few milliseconds, accents left aside.

    Args:
        words: tokens by id, the more frequent first among equals; empty ones are never suggested.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._folded = _fold("\n".join(words)).split("\n")
        self._letters, self._lengths = _signatures(self._folded)

    def nearest(self, word: str, count: int = 5) -> list[str]:
        """At most ``count`` words close to ``word``, closest first; perhaps none.

        Words whose length or letters are far off are left out at once, by comparing one bit a letter; the
        rest are ranked by the ratio of difflib (Ratcliff and Metzener 1988).
        """
        folded = _fold(word.replace("\n", " "))[:_LONGEST]
        letters, lengths = _signatures([folded])
        apart = np.bitwise_count(self._letters ^ letters[0]).astype(np.int32)
        apart += np.abs(self._lengths - lengths[0])
        apart[self._lengths == 0] = 1000
        candidates = np.argsort(apart, kind="stable")[:_CANDIDATES]
        matcher = SequenceMatcher(autojunk=False)
        matcher.set_seq2(folded)
        scored: list[tuple[float, int]] = []
        for id in candidates.tolist():
            matcher.set_seq1(self._folded[id][:_LONGEST])
            if self._lengths[id] and matcher.real_quick_ratio() >= _CLOSE and matcher.quick_ratio() >= _CLOSE:
                ratio = matcher.ratio()
                if ratio >= _CLOSE:
                    scored.append((-ratio, id))
        return [self._words[id] for _, id in sorted(scored)[:count]]


def _fold(text: str) -> str:
    """Lower case without accents."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(filter(lambda character: not unicodedata.combining(character), decomposed))


def _signatures(words: Sequence[str]) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint64]], np.ndarray]:
    """For each word the set of its letters, hashed into 64 bits, and its length."""
    array = np.array([word[:_LONGEST] for word in words] or [""])
    codes = array.view(np.uint32).reshape(len(array), -1)
    bits = np.where(codes > 0, np.uint64(1) << (codes % 64).astype(np.uint64), np.uint64(0))
    letters = np.bitwise_or.reduce(bits, axis=1)
    return letters, np.count_nonzero(codes, axis=1).astype(np.int32)
