"""A unit in its translation: tags, entities and white space back in their places.

Every tag and every run of white space of the source is written exactly once. An element goes around the words
that its words became; where the model tells nothing of alignment, around the same share of the sentence.
Tags stand between words, never in something that is kept.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bundle.alignment import Link, Weights, best_links, words_of
from bundle.edits import Span
from bundle.kept import Kept
from bundle.piece import Variant
from bundle.units import Tag, Unit

_MARKS = frozenset("<>&")
_BARE = {"<": "&lt;", "&": "&amp;"}
_NAME = re.compile(r"[A-Za-z/!?#]")
_REFERENCE = re.compile(r"&#?\w+;?")


@dataclass(frozen=True)
class Chunk:
    """A stretch of a unit and what it became.

    Attributes:
        source, target: where it stands in the texts of the unit.
        variant: its translation; None where it stayed as it is.
        kept: what its translation has as it was, counted from the start of the chunk.
        weights: ``[target words, source words]``, where the model tells them.
    """

    source: Span
    target: Span
    text: str
    variant: Variant | None = None
    kept: tuple[Kept, ...] = ()
    weights: Weights | None = None

    @cached_property
    def source_words(self) -> list[Span]:
        """Of a translated chunk, counted from its start."""
        return source_words(self.text, self.kept)

    @cached_property
    def target_words(self) -> list[Span]:
        """Of a translated chunk, counted from its start."""
        assert self.variant is not None
        return target_words(self.variant)


def source_words(text: str, kept: Sequence[Kept]) -> list[Span]:
    """The words of a sentence; what is kept is one word."""
    return words_of(text, [(each.start, each.end) for each in kept])


def target_words(variant: Variant) -> list[Span]:
    """The words of a translation; what was kept is one word."""
    return words_of(variant.text, [(start, end) for start, end, _ in variant.atoms])


class Layout:
    """A unit with its chunks, which joined are its text."""

    def __init__(self, unit: Unit, chunks: Sequence[Chunk]) -> None:
        self._unit = unit
        self._chunks = chunks
        self.length = chunks[-1].target[1] if chunks else 0

    def render(self) -> tuple[str, list[Link]]:
        """The translation as the document writes it, and the links: their sources are counted from the start
        of the document, their targets from the start of the translation."""
        characters, inserted = self._characters()
        tags: dict[int, list[str]] = {}
        for at, source in self._place(self._tree(), (0, self.length)):
            tags.setdefault(at, []).append(source)
        before = ["".join((*tags.get(at, ()), *inserted.get(at, ()))) for at in range(self.length + 1)]
        if self._unit.escaped:
            _sober(characters, before)
        out: list[str] = []
        starts: list[int] = []
        length = 0
        for at in range(self.length + 1):
            written = characters[at] if at < self.length else ""
            out += [before[at], written]
            starts.append(length + len(before[at]))
            length += len(before[at]) + len(written)
        return "".join(out), list(self._links(starts, characters))

    def _links(self, starts: Sequence[int], characters: Sequence[str]) -> Iterator[Link]:
        for chunk in self._chunks:
            if chunk.weights is None:
                continue
            for source, (start, end), weight in best_links(
                chunk.weights, chunk.target_words, chunk.source_words
            ):
                first, last = chunk.target[0] + start, chunk.target[0] + end - 1
                begin = chunk.source[0]
                where = self._unit.where((begin + source[0], begin + source[1]))
                stop = max(starts[at] + len(characters[at]) for at in range(first, last + 1))
                yield Link(where, (starts[first], stop), weight)

    def _characters(self) -> tuple[list[str], dict[int, list[str]]]:
        """How each character of the translation is written; and white space that found no place in it."""
        unit = self._unit
        written: list[str] = []
        for chunk in self._chunks:
            if chunk.variant is None:
                written += self._as_it_is(chunk.source)
                continue
            part = [
                "" if unit.escaped and character in _MARKS else character for character in chunk.variant.text
            ]
            for start, end, which in chunk.variant.atoms:
                begin, kept = chunk.source[0], chunk.kept[which]
                moved = kept._replace(start=begin + kept.start, end=begin + kept.end)
                part[start:end] = [unit.surface(moved), *[""] * (end - start - 1)]
            written += part
        inserted: dict[int, list[str]] = {}
        for at, chunk in self._odd_spaces():
            place = self._point(at)
            if unit.text[at - 1] == " ":  # a tag stood between the two
                inserted.setdefault(place, []).append(unit.raw[at])
                continue
            free = [each for each in self._spaces(chunk) if written[each] == " "]
            if free:
                written[min(free, key=lambda each: abs(each - place))] = unit.raw[at]
            else:
                inserted.setdefault(chunk.target[1], []).append(unit.raw[at])
        return written, inserted

    def _as_it_is(self, span: Span) -> list[str]:
        """How the source writes each character of a stretch; an ``&`` before a name with the name, for so it
        stood there, whatever it means (``&nosuch;``, ``&nbsp``)."""
        begin = span[0]
        raw = list(self._unit.raw[slice(*span)])
        for match in _REFERENCE.finditer(self._unit.text, *span):
            start, end = match.span()
            parted = any(start < tag.at < end for tag in self._unit.tags)
            if "".join(raw[start - begin : end - begin]) == match[0] and not parted:
                raw[start - begin : end - begin] = [match[0], *[""] * (end - start - 1)]
        return raw

    def _spaces(self, chunk: Chunk) -> list[int]:
        """Where a translated chunk has spaces that are not kept."""
        assert chunk.variant is not None
        start = chunk.target[0]
        return [
            start + at
            for at, character in enumerate(chunk.variant.text)
            if character == " " and not any(first <= at < last for first, last, _ in chunk.variant.atoms)
        ]

    def _odd_spaces(self) -> Iterator[tuple[int, Chunk]]:
        """White space inside translated sentences that is not one plain space, and not kept."""
        for chunk in self._chunks:
            if chunk.variant is None:
                continue
            kept = [(chunk.source[0] + each.start, chunk.source[0] + each.end) for each in chunk.kept]
            for at in range(*chunk.source):
                doubled = at > chunk.source[0] and self._unit.text[at - 1] == " "
                if self._unit.text[at] != " " or (self._unit.raw[at] == " " and not doubled):
                    continue
                if not any(start <= at < end for start, end in kept):
                    yield at, chunk

    # -- where tags go ------------------------------------------------------------------------------------

    def _tree(self) -> list["_Node"]:
        """The tags of the unit as nested elements."""
        roots: list[_Node] = []
        stack: list[tuple[int, _Node]] = []
        for index, tag in enumerate(self._unit.tags):
            if stack and stack[-1][0] == index:
                stack.pop()[1].close = tag
                continue
            node = _Node(tag)
            (stack[-1][1].children if stack else roots).append(node)
            if tag.partner is not None:
                stack.append((tag.partner, node))
        return roots

    def _place(self, nodes: Sequence["_Node"], within: Span) -> Iterator[tuple[int, str]]:
        """Tags with their places, in the order in which they are written."""
        for start, end, node in self._apart(nodes, within):
            yield start, node.open.source
            yield from self._place(node.children, (start, end))
            if node.close is not None:
                yield end, node.close.source

    def _apart(self, nodes: Sequence["_Node"], within: Span) -> list[tuple[int, int, "_Node"]]:
        """Each where it belongs, but not in another: by alignment, or, where that leaves nothing to one that
        had words, by shares."""
        placed: list[tuple[int, int, _Node]] = []
        for aligned in (True, False):
            placed, at = [], within[0]
            wanted = [(self._wanted(node, aligned), index) for index, node in enumerate(nodes)]
            for (start, end), index in sorted(wanted):
                first = min(max(start, at), within[1])
                at = min(max(end, first), within[1])
                placed.append((first, at, nodes[index]))
            if all(start < end or not self._inner(node).strip() for start, end, node in placed):
                break
        return placed

    def _inner(self, node: "_Node") -> str:
        start = node.open.at
        return self._unit.text[start : start if node.close is None else node.close.at]

    def _wanted(self, node: "_Node", aligned: bool) -> Span:
        """Where an element belongs, by itself."""
        inner = self._inner(node)
        start = node.open.at
        end = start + len(inner)
        if not inner.strip():
            place = self._point(start)
            return place, place
        start += len(inner) - len(inner.lstrip())
        end -= len(inner) - len(inner.rstrip())
        found = [
            self._span(chunk, max(start, chunk.source[0]), min(end, chunk.source[1]), aligned)
            for chunk in self._chunks
            if chunk.source[0] < end and start < chunk.source[1]
        ]
        return min(found)[0], max(each[1] for each in found)

    def _span(self, chunk: Chunk, start: int, end: int, aligned: bool) -> Span:
        """What a part of a chunk became."""
        (begin, _), (at, stop) = chunk.source, chunk.target
        if chunk.variant is None:
            return at + start - begin, at + end - begin
        source, target = chunk.source_words, chunk.target_words
        inside = np.array([a < end - begin and start - begin < b for a, b in source], bool)
        if inside.all() or not target:
            return at, stop
        if not inside.any():
            place = self._point(start)
            return place, place
        if not aligned or chunk.weights is None or not chunk.weights.any():
            shares = np.flatnonzero(inside) / len(source)
            first = min(round(shares[0] * len(target)), len(target) - 1)
            last = max(round((shares[-1] + 1 / len(source)) * len(target)) - 1, first)
        else:
            first, last = _heaviest(chunk.weights[:, inside].sum(axis=1) - 0.5)
        return at + target[first][0], at + target[last][1]

    def _point(self, place: int) -> int:
        """What became of a place between two characters: as few links as can be go across it."""
        chunk = next((each for each in self._chunks if each.source[0] < place < each.source[1]), None)
        if chunk is None or chunk.variant is None:
            return self._fixed(place)
        (begin, _), (at, stop) = chunk.source, chunk.target
        source, target = chunk.source_words, chunk.target_words
        before = np.array([b <= place - begin for _, b in source], bool)
        if not before.any() or not target:
            return at
        if before.all():
            return stop
        if chunk.weights is None or not chunk.weights.any():
            count = round(int(before.sum()) / len(source) * len(target))
        else:
            gains = 2 * chunk.weights[:, before].sum(axis=1) - 1
            count = int(np.argmax(np.concatenate([[0.0], np.cumsum(gains)])))
        if count == 0:
            return at
        if count == len(target) or not self._unit.text[place - 1].isspace():
            return at + target[count - 1][1]
        return at + target[count][0]

    def _fixed(self, place: int) -> int:
        for chunk in self._chunks:
            if chunk.source[0] <= place <= chunk.source[1]:
                if chunk.variant is None or place == chunk.source[0]:
                    return chunk.target[0] + place - chunk.source[0]
                if place == chunk.source[1]:
                    return chunk.target[1]
        return 0


def _sober(characters: list[str], before: Sequence[str]) -> None:
    """A bare ``<`` or ``&`` that came to stand before a word is no beginning of a tag or an entity."""
    for at, written in enumerate(characters):
        if written in _BARE:
            rest = (
                part
                for pair in zip(before[at + 1 :], [*characters[at + 1 :], ""], strict=True)
                for part in pair
            )
            if _NAME.match(next((part for part in rest if part), "")):
                characters[at] = _BARE[written]


class _Node:
    """A tag, or an element with what is in it."""

    def __init__(self, open: Tag) -> None:
        self.open = open
        self.close: Tag | None = None
        self.children: list[_Node] = []


def _heaviest(scores: Weights) -> Span:
    """First and last place of the stretch with the greatest sum, at least one place long."""
    best, found, total, start = -np.inf, (0, 0), 0.0, 0
    for place, score in enumerate(scores):
        if total <= 0:
            total, start = 0.0, place
        total += float(score)
        if total > best:
            best, found = total, (start, place)
    return found
