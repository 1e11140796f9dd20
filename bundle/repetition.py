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
        # `Vide vide vide`: a word is the same word with and without its capital
        first: dict[bytes, int] = {}
        self._same = np.array([first.setdefault(_lower(surface), id) for id, surface in enumerate(surfaces)])

    def rule(self, source: tuple[int, ...]) -> "Rule":
        """The rule for a sentence to translate: what the source itself repeats may be repeated."""
        same = self._folded(source)
        free = any(self._next(same[:end]) == same[end] for end in range(2, len(same)))
        return Rule(self, free=free)

    def banned(self, ids: Sequence[int]) -> Mask | None:
        """The tokens that would say once too often what ``ids`` end in, with and without capital."""
        again = self._next(self._folded(ids))
        return None if again is None else self._same == again

    def _folded(self, ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._same[np.array(ids, np.int64)].tolist())

    def _next(self, ids: tuple[int, ...]) -> int | None:
        for size in range(1, min(_LONGEST, len(ids) // _WORDS) + 1):
            unit = ids[-size:]
            most = _WORDS if self._starts[unit[0]] else _PIECES
            if len(ids) < size * most or not self._letters[np.array(unit)].any():
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
        banned = None if self._free else self._guard.banned(ids[-_LONGEST * _PIECES :])
        return None if banned is None else ~banned


def _has_letter(surface: bytes) -> bool:
    # a byte above 7F is part of a letter more often than not
    return any(byte >= 0x80 or chr(byte).isalpha() for byte in surface)


def _lower(surface: bytes) -> bytes:
    try:
        return surface.decode().lower().encode()
    except UnicodeDecodeError:  # part of a character
        return surface
