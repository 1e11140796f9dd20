"""A guard against the oldest fault of neural text: saying a word again and again."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bundle.tokenizer import Tokenizer

Mask = NDArray[np.bool_]

_LONGEST = 6  # tokens of what is repeated
_WORDS = 2  # times that words may stand in a row
_PIECES = 3  # times that a part of a word may: there are words like blablabla


class RepetitionGuard:
    """Which tokens may follow without a third time in a row of the same words, or a fourth of the same part
    of a word. Digits and punctuation may repeat: there are millions, and dots.

    Built once for a tokenizer; :meth:`rule` gives what one request needs.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        surfaces = [tokenizer.surface(id) for id in range(tokenizer.size)]
        self._starts: Mask = np.array([surface.startswith(b" ") for surface in surfaces], np.bool_)
        self._letters: Mask = np.array([_has_letter(surface) for surface in surfaces], np.bool_)

    def rule(self, source: tuple[int, ...]) -> "Rule":
        """The rule for a sentence to translate: what the source itself repeats may be repeated."""
        free = any(self.banned(source[:end]) == source[end] for end in range(2, len(source)))
        return Rule(self, free=free)

    def banned(self, ids: tuple[int, ...]) -> int | None:
        """The token that would say once too often what ``ids`` end in."""
        for size in range(1, min(_LONGEST, len(ids) // _WORDS) + 1):
            unit = ids[-size:]
            most = _WORDS if self._starts[unit[0]] else _PIECES
            if len(ids) < size * most or not self._letters[np.array(unit)].any():
                continue
            if all(ids[-size * n : len(ids) - size * (n - 1)] == unit for n in range(2, most + 1)):
                return unit[0]
        return None

    @property
    def size(self) -> int:
        """Tokens of the vocabulary."""
        return len(self._starts)


class Rule:
    """``Request.allow`` of one sentence: from the ids so far to a mask over the vocabulary, None = all."""

    def __init__(self, guard: RepetitionGuard, *, free: bool) -> None:
        self._guard = guard
        self._free = free

    def __call__(self, ids: Sequence[int]) -> Mask | None:
        id = None if self._free else self._guard.banned(tuple(ids[-_LONGEST * _PIECES :]))
        if id is None:
            return None
        mask = np.ones(self._guard.size, np.bool_)
        mask[id] = False
        return mask


def _has_letter(surface: bytes) -> bool:
    # a byte above 7F is part of a letter more often than not
    return any(byte >= 0x80 or chr(byte).isalpha() for byte in surface)
