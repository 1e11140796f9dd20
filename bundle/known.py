"""Which tokens of a vocabulary keep to known words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bundle.lexicon import Lexicon, in_word, is_number

Mask = NDArray[np.bool_]
Places = NDArray[np.int64]

_FEW = 8  # so many words are quicker walked one by one
_CACHED = 4096


class _Node:
    """The tokens that end here, and the bytes that go on."""

    __slots__ = ("ids", "next")

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.next: dict[int, _Node] = {}


class KnownTokens:
    """The tokens that may follow, so that every word is known.

    Args:
        lexicon: the known words.
        surfaces: the bytes of each token; empty ones add nothing and are never allowed.
    """

    def __init__(self, lexicon: Lexicon, surfaces: Sequence[bytes]) -> None:
        self.lexicon = lexicon
        self._going_on = lru_cache(maxsize=_CACHED)(self._find_going_on)
        self._after = lru_cache(maxsize=_CACHED // 4)(self._find_after)
        self._completes = lru_cache(maxsize=_CACHED)(self._find_complete)
        self._size = len(surfaces)
        self._root = _Node()
        self._outside: Mask = np.zeros(self._size, np.bool_)  # they end a word, and begin none or a known one
        self._spaced: Mask = np.zeros(self._size, np.bool_)  # of those, a space with or without a word
        self._inside: Mask = np.zeros(self._size, np.bool_)  # nothing but characters of words
        self._leaving: list[tuple[int, bytes]] = []  # they end a word by some letters of their own
        for id, surface in enumerate(surfaces):
            first, *others = _runs(surface)
            if not others:
                self._inside[id] = bool(surface)
                self._insert(surface, id)
            elif all(map(self.complete, others[:-1])) and self._may_begin(others[-1]):
                if first:
                    self._leaving.append((id, first))
                else:
                    self._outside[id] = True
                    self._spaced[id] = surface[:1] == b" " and _may_spell(surface[1:])
        inside = [(id, surfaces[id]) for id in np.flatnonzero(self._inside).tolist()]
        self._digits = np.array([id for id, surface in inside if is_number(surface)], np.int64)
        # they may lead from a head into a word, or from a word into its tail, which stand in no list
        self._joining = [
            (id, surface)
            for id, surface in inside
            if b"'" in surface or any(surface in tail for tail in lexicon.tails)
        ]

    def after(self, run: bytes, free: int = 0, *, words: bool = False) -> Mask:
        """The tokens allowed where a word has come to ``run`` (empty between words), bool ``[vocab]``, to be
        read only.

        Args:
            free: see :meth:`Lexicon.rests`.
            words: a word must follow, or go on: no number, nothing that stands between words but a space.
        """
        return self._after(run, free, words)

    def _find_after(self, run: bytes, free: int, words: bool) -> Mask:
        leaving = [id for id, lead in self._leaving if self.complete(run + lead, free)]
        if is_number(run):
            mask = self._outside | self._inside
            mask[leaving] = True
            return mask
        outside = self._spaced if words else self._outside
        mask = outside.copy() if self.complete(run, free) else np.zeros(self._size, np.bool_)
        for rest in self.lexicon.rests(run, free):
            mask[self._going_on(rest)] = True
        if not words:
            mask[leaving] = True
        elif not run:
            mask[self._digits] = False
        mask.setflags(write=False)
        return mask

    def complete(self, run: bytes, free: int = 0) -> bool:
        """Whether a word that has come to ``run`` may end there. One of no letters may, and any number."""
        return self._completes(run, free)

    def _find_complete(self, run: bytes, free: int) -> bool:
        if not run.strip(b"'-") or is_number(run):
            return True
        return any(self.lexicon.is_word(rest) for rest in self.lexicon.rests(run, free))

    def _may_begin(self, run: bytes) -> bool:
        return is_number(run) or bool(self.lexicon.rests(run))

    def _insert(self, surface: bytes, id: int) -> None:
        node = self._root
        for byte in surface:
            node = node.next.setdefault(byte, _Node())
        node.ids.append(id)

    def _find_going_on(self, rest: bytes) -> Places:
        """Tokens inside the word, after which ``rest`` still begins a known word."""
        words = self.lexicon.sorted
        first = bisect_left(words, rest)
        found: list[int] = []
        self._walk(self._root, rest, first, bisect_left(words, rest + b"\xff", first), found)
        if rest:
            found += [id for id, surface in self._joining if self.lexicon.rests(rest + surface)]
        else:
            found += self._digits.tolist()
        return np.array(sorted(set(found)), np.int64)

    def _walk(self, node: _Node, prefix: bytes, first: int, last: int, found: list[int]) -> None:
        """Down the tree of the tokens and the list of the words at once; its words so far have ``prefix``."""
        words = self.lexicon.sorted
        if last - first <= _FEW:
            for word in words[first:last]:
                here: _Node | None = node
                for byte in word[len(prefix) :]:
                    here = here.next.get(byte) if here else None
                    if here is None:
                        break
                    found += here.ids
            return
        for byte, child in node.next.items():
            longer = prefix + bytes((byte,))
            start = bisect_left(words, longer, first, last)
            end = bisect_left(words, longer + b"\xff", start, last)
            if start < end:
                found += child.ids
                self._walk(child, longer, start, end, found)


def _may_spell(surface: bytes) -> bool:
    """Whether ``surface`` is nothing but letters of a word, or nothing."""
    return len(_runs(surface)) == 1 and not is_number(surface) and (not surface or bool(surface.strip(b"'-")))


def _runs(surface: bytes) -> list[bytes]:
    """``surface`` without what stands between words. Parts of characters count as parts of words.

    The first begins where ``surface`` does, the last ends where it does; either is empty where that is
    outside of words. One alone is all in a word.
    """
    found = [""]
    outside = False
    for character in surface.decode(errors="surrogateescape"):
        if not (in_word(character) or "\udc80" <= character <= "\udcff"):
            outside = True
            continue
        if outside:
            found.append("")
        outside = False
        found[-1] += character
    if outside:
        found.append("")
    return [run.encode(errors="surrogateescape") for run in found]
