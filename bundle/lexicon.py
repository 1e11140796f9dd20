"""Known words: which letters begin one, which are one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

from bundle.errors import BundleError

LEXICON = "words.txt"
_JOINERS = b"'-"


class Lexicon:
    """The known words of a language, as the bytes of their UTF-8.

    A word that begins with a small letter is also known with a capital. ``l'`` is a head: any word may follow
    it. ``'s`` is a tail: it may follow any word. Which heads and tails a language has, its words say.

    Args:
        words: each a word, a head (ends with an apostrophe) or a tail (begins with one).

    Attributes:
        sorted: words and heads in every form, in the order of their bytes.
        tails: in no order.
    """

    def __init__(self, words: Iterable[str]) -> None:
        spelt = [word for word in words if word]
        self.tails = tuple(word.encode() for word in spelt if word.startswith("'"))
        heads = [word for word in spelt if word.endswith("'") and not word.startswith("'")]
        self._heads = frozenset(form.encode() for head in heads for form in _forms(head))
        whole = [word for word in spelt if "'" not in (word[0], word[-1])]
        self._known = frozenset(form.encode() for word in whole for form in _forms(word))
        # heads are found by their letters, too: "l" begins one
        self.sorted = sorted(self._known | self._heads)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Lexicon:
        """Read a file: UTF-8, a word a line.

        Raises:
            BundleError: it cannot be read, is not UTF-8, or has no words.
        """
        try:
            lexicon = cls(Path(path).read_text(encoding="utf-8").split("\n"))
        except OSError as error:
            raise BundleError(path, f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BundleError(path, f"is not UTF-8: {error.reason}") from error
        if not lexicon.sorted:
            raise BundleError(path, "has no words")
        return lexicon

    def begins(self, letters: bytes) -> bool:
        """Whether a known word, its tail included, begins with ``letters``. Nothing begins every word."""
        place = bisect_left(self.sorted, letters)
        if place < len(self.sorted) and self.sorted[place].startswith(letters):
            return True
        return any(tail.startswith(rest) for rest in self._after_word(letters) for tail in self.tails)

    def is_word(self, letters: bytes) -> bool:
        """Whether ``letters`` are a known word, perhaps with a tail."""
        return letters in self._known or any(rest in self.tails for rest in self._after_word(letters))

    def rests(self, run: bytes, free: int = 0) -> list[bytes]:
        """What is left for a known word to begin with, where ``run`` began a word.

        That is all of it, or what follows a head, or what follows the first ``free`` bytes, which somebody
        typed and which are not judged. Quotation marks and dashes before a word are no part of it. Empty
        where no known word begins like this.
        """
        start = len(run) - len(run.lstrip(_JOINERS))
        starts = {start, *([free] if start < free <= len(run) else ())}
        for at in (place + 1 for place, byte in enumerate(run) if byte == _JOINERS[0]):
            if any(run[earlier:at] in self._heads for earlier in tuple(starts)):
                starts.add(at)
        return [rest for rest in (run[at:] for at in sorted(starts)) if self.begins(rest)]

    def _after_word(self, letters: bytes) -> Iterator[bytes]:
        """What stands behind a known word in ``letters``, from an apostrophe on."""
        place = letters.find(b"'") if self.tails else -1
        while place > 0:
            if letters[:place] in self._known:
                yield letters[place:]
            place = letters.find(b"'", place + 1)


def in_word(character: str) -> bool:
    """Whether a character may stand inside a word."""
    return character.isalnum() or character in "_'’-"


def is_number(run: bytes) -> bool:
    """Whether ``run`` begins with a digit. Numbers are no words; any will do."""
    return run.lstrip(_JOINERS)[:1].isdigit()


def _forms(word: str) -> tuple[str, ...]:
    capital = word[0].upper()
    # not the sharp s and its like, which become two letters
    return (word,) if len(capital) != 1 or capital == word[0] else (word, capital + word[1:])
