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
        # read one by one, at every token of every row: bytes are read faster than arrays
        self._starts = bytes(surface.startswith(b" ") for surface in surfaces)
        self._letters = bytes(_has_letter(surface) for surface in surfaces)
        # `Vide vide vide`: a word is the same word with and without its capital
        first: dict[bytes, int] = {}
        self._same = [first.setdefault(_lower(surface), id) for id, surface in enumerate(surfaces)]
        self._folds = np.array(self._same)

    def rule(self, source: tuple[int, ...]) -> "Rule":
        """The rule for a sentence to translate: what the source itself repeats may be repeated."""
        same = self._folded(source)
        free = any(self._next(same[:end]) == same[end] for end in range(2, len(same)))
        return Rule(self, free=free)

    def banned(self, ids: Sequence[int]) -> Mask | None:
        """The tokens that would say once too often what ``ids`` end in, with and without capital."""
        same = self._same
        # asked at every token of every row: nearly always the last token is none of those shortly before
        if not ids or same[ids[-1]] not in [same[id] for id in ids[-1 - _LONGEST : -1]]:
            return None
        again = self._next(self._folded(ids[-_LONGEST * _PIECES :]))
        return None if again is None else self._folds == again

    def _folded(self, ids: Sequence[int]) -> list[int]:
        same = self._same
        return [same[id] for id in ids]

    def _next(self, ids: list[int]) -> int | None:
        for size in range(1, min(_LONGEST, len(ids) // _WORDS) + 1):
            if ids[-1] != ids[-1 - size]:  # nearly always, and then the rest need not be looked at
                continue
            unit = ids[-size:]
            most = _WORDS if self._starts[unit[0]] else _PIECES
            if len(ids) < size * most or not any(self._letters[id] for id in unit):
                continue
            if all(ids[-size * n : len(ids) - size * (n - 1)] == unit for n in range(2, most + 1)):
                return unit[0]
        return None


class Rule:
    """``Request.allow`` of one sentence: from the ids so far to a mask over the vocabulary, None = all."""

    def __init__(self, guard: RepetitionGuard, *, free: bool) -> None:
        self._guard = guard
        self._free = free

    def __call__(self, ids: Sequence[int]) -> Mask | None:
        banned = None if self._free else self._guard.banned(ids)
        return None if banned is None else ~banned


def _has_letter(surface: bytes) -> bool:
    # a byte above 7F is part of a letter more often than not
    return any(byte >= 0x80 or chr(byte).isalpha() for byte in surface)


def _lower(surface: bytes) -> bytes:
    try:
        return surface.decode().lower().encode()
    except UnicodeDecodeError:  # part of a character
        return surface
