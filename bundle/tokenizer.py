"""Text to ids and back, for character, word and byte-level BPE tokenizers alike."""

import codecs
import json
from collections.abc import Iterable
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from bundle.errors import BundleError, InvalidRequest
from bundle.manifest import Level, Special

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")


class Tokenizer:
    """A ``tokenizer.json``. It adds no special token by itself, and never reads one out of a text.

    Attributes:
        level: what one id stands for: ``char``, ``word`` or ``bpe``.
        size: number of ids.
        special: ids of ``<pad>``, ``<bos>``, ``<eos>`` and ``<unk>``.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        # A text that happens to contain "<eos>" is a text: it must not be able to end a sentence.
        backend.encode_special_tokens = True
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        self._ids = vocabulary
        self.size: int = max(vocabulary.values(), default=-1) + 1
        if self.size != len(vocabulary):
            # the library walks from 0 to the highest id: one of 2**31 and it does not come back
            raise ValueError(f"{len(vocabulary)} tokens have ids up to {self.size - 1}, with gaps or twice")
        self.level: Level = _level(json.loads(backend.to_str()))
        self._tokens = [""] * self.size
        for token, id in vocabulary.items():
            self._tokens[id] = token
        pad, bos, eos, unk = (vocabulary.get(token) for token in SPECIAL_TOKENS)
        self.special = Special(pad=pad, bos=bos, eos=eos, unk=unk)
        self.special_ids = frozenset(id for id in (pad, bos, eos, unk) if id is not None)
        self._surfaces = [self._surface(id, token) for id, token in enumerate(self._tokens)]
        # what was encoded last: a text is measured before it is cut, and encoded again where it fits as it is
        self._last: tuple[str, list[int]] = ("", [])
        self.strips_first_space = self._strips()

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Tokenizer":
        """Open a file.

        Raises:
            BundleError: the file is missing or is no tokenizer of ours.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            return cls(Backend.from_str(text))
        except OSError as error:
            raise BundleError(path, f"cannot be read: {error.strerror}") from error
        except Exception as error:  # the library raises bare Exception for every fault of a file
            raise BundleError(path, f"is not a tokenizer: {error}") from error

    def encode(self, text: str, *, field: str = "text") -> list[int]:
        """Ids of ``text``, without specials.

        Raises:
            InvalidRequest: naming ``field`` and the character, when a character is unknown and the
                vocabulary has no ``<unk>`` to stand for it, or is half of a surrogate pair.
        """
        last, known = self._last  # read at once: other threads encode, too
        if text == last:
            return known.copy()
        try:
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises bare Exception; a surrogate is a UnicodeEncodeError
            raise InvalidRequest(field, self._unknown(text)) from error
        unk = self.special.unk
        if self.level == "word" and unk is not None:  # here "<eos>" written in the text is a word
            ids = [unk if id in self.special_ids else id for id in ids]
        self._last = (text, ids.copy())
        return ids

    def encode_spans(self, text: str, *, field: str = "text") -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of ``text`` as :meth:`encode` has them, and the characters of ``text`` that each stands for.

        Raises:
            InvalidRequest: see :meth:`encode`.
        """
        ids = self.encode(text, field=field)
        return ids, list(self._backend.encode(text, add_special_tokens=False).offsets)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ``ids``; specials are skipped, bytes that are not UTF-8 become U+FFFD."""
        kept = [id for id in ids if id not in self.special_ids]
        return str(self._backend.decode(kept, skip_special_tokens=False))

    def normalize(self, text: str) -> str:
        """``text`` as the normaliser leaves it (NFC; lower case where the vocabulary is)."""
        normalizer = self._backend.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def to_json(self) -> str:
        """The tokenizer as its file says it."""
        return str(self._backend.to_str())

    def id_of(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it."""
        return self._ids.get(token)

    def token_of(self, id: int) -> str:
        """The token of an id as the vocabulary spells it."""
        return self._tokens[id]

    def surface(self, id: int) -> bytes:
        """The bytes that ``id`` adds to a text that goes on; ``b""`` for specials.

        A word carries the space before it. A byte-level token may be part of a character only.
        """
        return self._surfaces[id]

    def words(self) -> list[str]:
        """Every token, in the order of the ids."""
        return list(self._tokens)

    def _surface(self, id: int, token: str) -> bytes:
        if id in self.special_ids:
            return b""
        if self.level == "word":
            return b" " + token.encode()
        if self.level == "char":
            return token.encode()
        table = _byte_of()
        try:
            return bytes(table[character] for character in token)
        except KeyError:  # an added token, which the byte-level decoder leaves as it is
            return token.encode()

    def _strips(self) -> bool:
        """Whether decoding drops the space that the first token carries."""
        for id, surface in enumerate(self._surfaces):
            if surface.startswith(b" ") and surface.isascii():
                return not self.decode([id]).startswith(" ")
        return False

    def _unknown(self, text: str) -> str:
        for character in text:
            if 0xD800 <= ord(character) <= 0xDFFF:
                return f"U+{ord(character):04X} is half of a surrogate pair, not a character"
        for character in self.normalize(text):
            if character not in self._ids:
                return f"the character {character!r} is not in the alphabet of this model"
        return "the text has a token that the vocabulary lacks"


class Detokenizer:
    """Text of ids that arrive one by one. The joined pieces are ``tokenizer.decode`` of all of them.

    Args:
        continues: the text is appended to an earlier one, so the space before a first word is kept.
    """

    def __init__(self, tokenizer: Tokenizer, *, continues: bool = False) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip = tokenizer.strips_first_space and not continues

    def feed(self, id: int) -> str:
        """The text that is complete with this id, never half a character; perhaps empty."""
        return self._text(self._tokenizer.surface(id), False)

    def flush(self) -> str:
        """What was held back: U+FFFD for a character that never became whole."""
        return self._text(b"", True)

    def _text(self, surface: bytes, final: bool) -> str:
        text = self._decoder.decode(surface, final)
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text


def _level(file: dict[str, Any]) -> Level:
    model = file["model"]["type"]
    if model == "BPE":
        return "bpe"
    if model != "WordLevel":
        raise ValueError(f"a {model} model is neither char, word nor bpe")
    pre = file.get("pre_tokenizer") or {}
    steps = [step["type"] for step in pre.get("pretokenizers", [pre]) if step]
    return "word" if {"WhitespaceSplit", "Whitespace"} & set(steps) else "char"


@cache
def _byte_of() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2, 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + place): byte for place, byte in enumerate(others)})
    return table
