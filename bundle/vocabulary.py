"""The words of a vocabulary in the order of the alphabet, page by page."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class Vocabulary:
    """Words by prefix.

    Args:
        words: tokens by id; empty ones are none.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = sorted(filter(None, words))

    def count(self, prefix: str) -> int:
        """How many words begin with ``prefix``."""
        start, end = self._span(prefix)
        return end - start

    def page(self, prefix: str, limit: int, *, after: str = "") -> list[str]:
        """At most ``limit`` words that begin with ``prefix``, those after the word ``after`` only."""
        start, end = self._span(prefix)
        if after:
            start = max(start, bisect_right(self._words, after))
        return self._words[start : min(start + limit, end)]

    def _span(self, prefix: str) -> tuple[int, int]:
        start = bisect_left(self._words, prefix)
        return start, bisect_right(self._words, prefix, start, key=lambda word: word[: len(prefix)])
