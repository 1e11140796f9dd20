"""Completing the word being typed, with a vocabulary whose tokens need not stop where the typist did."""

import re
from bisect import bisect_left
from codecs import getincrementaldecoder
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bundle.known import KnownTokens
from bundle.lexicon import Lexicon, in_word, is_number
from bundle.tokenizer import Tokenizer

Mask = NDArray[np.bool_]

# Apostrophes and hyphens join: aujourd'hui and peut-être are typed, and completed, as one.
_WORD = re.compile(r"[\w'’-]*\w[\w'’-]*")
_TYPED = re.compile(r"\w[\w'’-]*\Z")
_TYPED_TOKEN = re.compile(r"\S+\Z")
_CONTROLS = frozenset((*range(0x20), 0x7F)) - frozenset(b"\t\n\r")
_LONGEST = 40  # characters of a word that are generated anew


def count_words(text: str) -> int:
    """How many words, the last perhaps unfinished."""
    return len(_WORD.findall(text))


def last_word(text: str) -> str:
    """The word that ``text`` ends in; empty after a space or a full stop."""
    found = _TYPED.search(text)
    return found[0] if found else ""


def first_run(text: str) -> str:
    """The characters of a word that ``text`` begins with; perhaps none."""
    end = 0
    while end < len(text) and in_word(text[end]):
        end += 1
    return text[:end]


def whole_words(text: str) -> str:
    """``text`` without its last, perhaps unfinished, word and the spaces around."""
    end = len(text)
    while end and in_word(text[end - 1]):
        end -= 1
    return text[:end].rstrip()


class WordTable:
    """The tokens of a vocabulary by their bytes: which go on from given letters, which end a word.

    Args:
        lexicon: the known words; None = any letters are one.
    """

    def __init__(self, tokenizer: Tokenizer, lexicon: Lexicon | None = None) -> None:
        self.tokenizer = tokenizer
        surfaces = [tokenizer.surface(id) for id in range(tokenizer.size)]
        self.surfaces = surfaces
        self._order = sorted((id for id in range(len(surfaces)) if surfaces[id]), key=surfaces.__getitem__)
        self._sorted = [surfaces[id] for id in self._order]
        self._ids: dict[bytes, list[int]] = {}
        for id in self._order:
            self._ids.setdefault(surfaces[id], []).append(id)
        self.closing: Mask = np.array([_closes(surface) for surface in surfaces], np.bool_)
        # Bytes 80 to BF go on with a character, and nothing else does.
        self.inside: Mask = np.array([0x80 <= (surface or b"!")[0] < 0xC0 for surface in surfaces], np.bool_)
        # Nobody types control characters; a model that has no idea would as soon write those.
        control = np.array([(surface or b"!")[0] in _CONTROLS for surface in surfaces], np.bool_)
        self.outside: Mask = ~self.inside & ~control
        self.unfinished: Mask = self.outside.copy()
        if tokenizer.special.eos is not None:
            self.unfinished[tokenizer.special.eos] = False
        self.continuing = lru_cache(maxsize=256)(self._continuing)
        self.known = None if lexicon is None else KnownTokens(lexicon, surfaces)

    def split(self, prompt: str) -> tuple[str, str]:
        """``prompt`` (normalised) as what stays and what is generated anew: the word being typed.

        The space before a word belongs to it, as it does in the tokens.
        """
        level = self.tokenizer.level
        if level == "char":  # every letter is a token of its own: nothing was cut wrongly
            return prompt, ""
        if level == "word":
            found = _TYPED_TOKEN.search(prompt)
            typed = found[0] if found else ""
            return prompt[: len(prompt) - len(typed)].rstrip(), f" {typed}"
        found = _TYPED.search(prompt)
        start = max(found.start() if found else len(prompt), len(prompt) - _LONGEST)
        if start and prompt[start - 1] == " ":
            start -= 1
        return prompt[:start], prompt[start:]

    def knows(self, typed: str) -> bool:
        """Whether a known word goes on from the letters typed, or there is no telling."""
        if self.known is None:
            return True
        run, free = _free(typed)
        return is_number(run) or bool(self.known.lexicon.rests(run, free))

    def _continuing(self, letters: bytes, every: bool) -> Mask:
        """Tokens that begin with ``letters``, or that are a beginning of them.

        Of the latter, ``every`` one or only the one that the tokenizer itself would begin with: a search
        that cannot go back must not be led into spellings that never occur.
        """
        mask = np.zeros(len(self.surfaces), np.bool_)
        first = bisect_left(self._sorted, letters)
        for place in range(first, len(self._sorted)):
            if not self._sorted[place].startswith(letters):
                break
            mask[self._order[place]] = True
        shorter = [id for end in range(1, len(letters)) for id in self._ids.get(letters[:end], ())]
        if self.tokenizer.level == "word":  # a token is a whole word, and no beginning of a longer one
            shorter = []
        elif not every:
            shorter = [id for id in shorter if id == self._usual(letters)] or shorter
        mask[shorter] = True
        mask.setflags(write=False)
        return mask

    def _usual(self, letters: bytes) -> int | None:
        try:
            ids = self.tokenizer.encode(letters.decode())
        except ValueError:  # not whole characters, or not in the alphabet
            return None
        return ids[0] if ids else None


class WordRule:
    """What one request may generate: the typed letters first, then whole words up to a number.

    Where the table has a lexicon, every word is a known one, save where the typed letters begin none.

    Args:
        typed: what is generated anew.
        words: how many words to append; the rest of the typed one counts where there is any.
        every: see :meth:`WordTable.continuing`.
    """

    def __init__(self, table: WordTable, typed: str, words: int, *, every: bool) -> None:
        self.typed = typed
        self.words = words
        self._table = table
        self._bytes = typed.encode()
        self._every = every
        self._judged = table.knows(typed)
        self._free = _free(typed)[1]

    @property
    def _known(self) -> KnownTokens | None:
        return self._table.known if self._judged else None

    def allow(self, ids: Sequence[int]) -> Mask:
        """Tokens that keep to the typed letters, whole characters and known words, and append something."""
        made = self._made(ids)
        text, whole = _decode(made[len(self._bytes) :])
        if len(made) < len(self._bytes):
            mask = self._table.continuing(self._bytes[len(made) :], self._every)
        elif not whole:
            mask = self._table.inside
        else:
            mask = self._table.outside if text and not text.isspace() else self._table.unfinished
        known = self._known
        if known is None:
            return mask
        run, free = self._run(made)
        if len(run) < free:
            return self._into_free(known, mask, made, free)
        # a list of words is a list of words, and of nothing that stands before them
        kept: Mask = mask & known.after(run, free, words=self._every and not count_words(text))
        eos = self._table.tokenizer.special.eos
        if eos is not None and mask[eos]:
            kept[eos] = known.complete(run, free)
        return kept

    def _into_free(self, known: KnownTokens, mask: Mask, made: bytes, free: int) -> Mask:
        """Of the tokens that keep to the typed letters those that stay in what is not judged of them, or lead
        out of it into a known word."""
        kept = np.zeros_like(mask)
        for id in np.flatnonzero(mask):
            run = _last_run(made + self._table.surfaces[id])
            kept[id] = len(run) < free or bool(known.lexicon.rests(run, free))
        return kept

    def closing(self, ids: Sequence[int]) -> Mask | None:
        """Tokens that end the last of the words; None before it."""
        made = self._made(ids)
        text, whole = _decode(made[len(self._bytes) :])
        if not whole or count_words(text) < self.words:
            return None
        known = self._known
        if known is not None and not known.complete(*self._run(made)):
            return None
        return self._table.closing

    def stop(self, ids: Sequence[int]) -> bool:
        """Whether the words are there without asking the model how the last one ends."""
        if self._table.tokenizer.level != "word":
            return False
        return count_words(self._made(ids)[len(self._bytes) :].decode()) >= self.words

    def text(self, ids: Sequence[int]) -> bytes:
        """What is appended, whatever tokens it is spelt in."""
        return self._made(ids)[len(self._bytes) :]

    def _made(self, ids: Sequence[int]) -> bytes:
        surfaces = self._table.surfaces
        return b"".join([surfaces[id] for id in ids])

    def _run(self, made: bytes) -> tuple[bytes, int]:
        """The word that ``made`` ends in, and how many of its first bytes are not judged."""
        run = _last_run(made)
        return run, self._free if len(made) - len(run) <= len(self._bytes) - len(self._bytes.lstrip()) else 0


def _last_run(made: bytes) -> bytes:
    """The characters of a word, the last perhaps unfinished, that ``made`` ends in."""
    text = made.decode(errors="surrogateescape")
    start = len(text)
    while start and (in_word(text[start - 1]) or "\udc80" <= text[start - 1] <= "\udcff"):
        start -= 1
    return text[start:].encode(errors="surrogateescape")


def _free(typed: str) -> tuple[bytes, int]:
    """The word of ``typed``, and how many of its bytes end with its last hyphen or apostrophe."""
    run = typed.strip()
    return run.encode(), len(run[: max(run.rfind("-"), run.rfind("'")) + 1].encode())


def _decode(raw: bytes) -> tuple[str, bool]:
    """The text of ``raw``, and whether it ends with a whole character."""
    decoder = getincrementaldecoder("utf-8")("replace")
    return decoder.decode(raw), not decoder.getstate()[0]


def _closes(surface: bytes) -> bool:
    """Whether a token begins with a character that no word has."""
    if not surface:
        return False
    if surface[0] < 0x80:
        return not in_word(chr(surface[0]))
    length = 2 if surface[0] < 0xE0 else 3 if surface[0] < 0xF0 else 4
    try:
        return not in_word(surface[:length].decode())
    except UnicodeDecodeError:  # part of a character: what it will be is not known
        return False
