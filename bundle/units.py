"""A document as parts: what stays as it is, and units of running text that are translated.

Joined, the sources of the parts are the document. Whatever format it has (``bundle.markup`` reads HTML), what
comes after sees units alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bundle.edits import Edits, Span
from bundle.kept import Kept, find_kept, has_words

# What a reader sees as another line (str.splitlines), and what sets columns apart.
_WALL = re.compile(r"(\s*[\n\r\t\x0b\x0c\x1c-\x1e\x85\u2028\u2029]\s*|\s{3,})")
_RUN = re.compile(r"\s+")
_UNEVEN = re.compile(r"\s\s|[^\S ]")  # white space that is no single space
_WORDY = re.compile(r"\w")
_ESCAPED = frozenset("<>&")


@dataclass(frozen=True)
class Tag:
    """Mark-up inside running text; it stands before the character ``at`` of the unit's text.

    Attributes:
        end: where its element ends, for the opening tag of one; it is closed by the tag ``partner``.
    """

    at: int
    source: str
    partner: int | None = None


@dataclass(frozen=True)
class Unit:
    """Running text: a line, or what a block element of HTML holds.

    Attributes:
        text: as a reader sees it; every run of white space is one space.
        raw: how the document writes each character; joined with the tags it is the source of the unit.
        start: where the document has the unit.
        tags: mark-up, in order.
        kept: what comes back as it is.
        escaped: whether the document escapes ``<``, ``>`` and ``&``.
    """

    text: str
    raw: tuple[str, ...]
    start: int
    tags: tuple[Tag, ...] = ()
    kept: tuple[Kept, ...] = ()
    escaped: bool = False
    starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        starts, at, tags = [], self.start, iter((*self.tags, None))
        tag = next(tags)
        for place, raw in enumerate((*self.raw, "")):
            while tag is not None and tag.at <= place:
                at += len(tag.source)
                tag = next(tags)
            starts.append(at)
            at += len(raw)
        object.__setattr__(self, "starts", tuple(starts))

    @property
    def source(self) -> str:
        """The unit as the document has it."""
        parts, at = [], 0
        for tag in self.tags:
            parts += [*self.raw[at : tag.at], tag.source]
            at = tag.at
        return "".join((*parts, *self.raw[at:]))

    @property
    def marked(self) -> bool:
        """Whether there is anything to find a place for: tags, or white space that is no plain space."""
        odd = (raw != " " for character, raw in zip(self.text, self.raw, strict=True) if character == " ")
        return bool(self.tags) or any(odd)

    def where(self, span: Span) -> Span:
        """Where the document has a part of ``text``; nothing of its tags but those inside it."""
        start, end = span
        if end <= start:
            return self.starts[start], self.starts[start]
        return self.starts[start], self.starts[end - 1] + len(self.raw[end - 1])

    def surface(self, kept: Kept) -> str:
        """How the document writes something of ``kept`` in the translation."""
        if kept.plain == self.text[kept.start : kept.end]:
            return "".join(self.raw[kept.start : kept.end])
        return escape(kept.plain) if self.escaped else kept.plain


Part = str | Unit


def words_of_parts(parts: Sequence[Part]) -> str:
    """What is in some language in a document: no tag, number, address or placeholder."""
    texts = []
    for part in parts:
        if isinstance(part, Unit):
            texts.append(Edits.of(part.text, [(kept.start, kept.end, " ") for kept in part.kept]).result)
    return "\n".join(texts)


def escape(text: str) -> str:
    """``text`` as HTML writes it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def read_text(text: str, glossary: Mapping[str, str]) -> list[Part]:
    """The lines of a text, and its columns: line breaks, tabs and three spaces or more are never moved."""
    parts: list[Part] = []
    at = 0
    for place, piece in enumerate(_WALL.split(text)):
        parts.append(piece if place % 2 else make_unit([(piece, piece)], at, glossary))
        at += len(piece)
    return [part for part in parts if part != ""]


def make_unit(
    pieces: Sequence[tuple[str, str]],
    start: int,
    glossary: Mapping[str, str],
    *,
    tags: Sequence[Tag] = (),
    escaped: bool = False,
) -> Part:
    """A unit, or, where there is no word in it, its source.

    Args:
        pieces: text as a reader sees it, and as the document writes it: of one length, or the latter stands
            as a whole for the first character.
        tags: ``at`` counts characters of the joined pieces.
    """
    text: list[str] = []
    raw: list[str] = []
    for plain, written in pieces:
        text += plain
        raw += written if len(plain) == len(written) else [written, *[""] * (len(plain) - 1)]
    text, raw, tags = _single_spaces(text, raw, tags)
    seen = "".join(text)
    kept = _with_symbols(seen, raw, find_kept(seen, glossary), escaped)
    unit = Unit(seen, tuple(raw), start, tuple(tags), tuple(kept), escaped)
    return unit if has_words(seen, kept) else unit.source


def _single_spaces(
    text: list[str], raw: list[str], tags: Sequence[Tag]
) -> tuple[list[str], list[str], list[Tag]]:
    """Every run of white space as one space, written as the run is; a tag inside a run parts it in two."""
    if not _UNEVEN.search("".join(text)):
        return text, raw, list(tags)
    walls = {tag.at for tag in tags}
    seen: list[str] = []
    written: list[str] = []
    places = [0] * (len(text) + 1)
    for at, (character, source) in enumerate(zip(text, raw, strict=True)):
        if character.isspace() and at and text[at - 1].isspace() and at not in walls:
            written[-1] += source
        else:
            seen.append(" " if character.isspace() else character)
            written.append(source)
        places[at + 1] = len(seen)
    return seen, written, [Tag(places[tag.at], tag.source, tag.partner) for tag in tags]


def _with_symbols(text: str, raw: Sequence[str], kept: list[Kept], escaped: bool) -> list[Kept]:
    """``kept``, and every character that must not be lost: entities, ``<``, ``>``, ``&``.

    Letters, apostrophes and spaces that are written as entities belong to the words: they are translated.
    """
    if not escaped:
        return kept
    taken = [False] * len(text)
    for each in kept:
        taken[each.start : each.end] = [True] * (each.end - each.start)
    found = list(kept)
    for at, character in enumerate(text):
        entity = raw[at] != character or character in _ESCAPED
        if taken[at] or not entity or character.isspace() or character.isalnum():
            continue
        if character in "'’" and 0 < at < len(text) - 1 and text[at - 1 : at + 2 : 2].isalpha():
            continue
        found.append(Kept(at, at + 1, character, "symbol"))
    return _joined(text, sorted(found))


def _joined(text: str, kept: list[Kept]) -> list[Kept]:
    """Symbols inside a word (AT&T) with the word."""
    found: list[Kept] = []
    for each, following in zip(kept, [*(each.start for each in kept[1:]), len(text)], strict=bool(kept)):
        start, end = each.start, each.end
        if each.kind == "symbol" and each.plain in _ESCAPED:
            before = found[-1].end if found else 0
            while start > before and _WORDY.match(text[start - 1]):
                start -= 1
            while end < following and _WORDY.match(text[end]):
                end += 1
            wordy = end - start > 1
            each = Kept(start, end, text[start:end], "mark" if wordy else "symbol")
        found.append(each)
    return found
