"""One unit of a text on its way through a translator: cut into pieces, and put together again."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bundle.alignment import Link
from bundle.layout import Chunk, Layout
from bundle.piece import Piece
from bundle.sentences import split_text
from bundle.units import Unit


class Work:
    """A unit being translated: its pieces with their places, and what each became."""

    def __init__(self, unit: Unit, parts: Sequence[tuple[int, str | Piece]]) -> None:
        self.unit = unit
        self.parts = parts
        self.missing = sum(isinstance(part, Piece) and not part.variants for _, part in parts)
        self.weights: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._best: tuple[str, list[Link]] | None = None

    def render(self, ranks: dict[int, int]) -> tuple[str, list[Link]]:
        """The text of the unit and its links (see :class:`Layout`); the best is made once."""
        if ranks:
            return self.layout(ranks).render()
        if self._best is None:
            self._best = self.layout(ranks).render()
        return self._best

    def layout(self, ranks: dict[int, int]) -> Layout:
        """The unit with the pieces in ``ranks`` (by place) at their rank, all others at their best."""
        chunks: list[Chunk] = []
        at = 0
        for place, part in self.parts:
            if isinstance(part, str):
                chunks.append(Chunk((place, place + len(part)), (at, at + len(part)), part))
            else:
                rank = ranks.get(place, 0)
                variant = part.variants[rank]
                source, target = (place, place + len(part.text)), (at, at + len(variant.text))
                weights = self.weights.get((place, rank))
                chunks.append(Chunk(source, target, part.text, variant, part.kept, weights))
            at = chunks[-1].target[1]
        return Layout(self.unit, chunks)


def sentences_of(unit: Unit, language: str) -> Iterator[tuple[int, str]]:
    """The sentences of a unit and what stands between them; nothing that is kept is cut."""
    at = start = 0
    for _, part in split_text(unit.text, language):
        at += len(part)
        if any(each.start < at < each.end for each in unit.kept):
            continue
        whole = unit.text[start:at]
        lead = len(whole) - len(whole.lstrip())
        tail = max(lead, len(whole.rstrip()))
        for left, right in ((0, lead), (lead, tail), (tail, len(whole))):
            if left < right:
                yield start + left, whole[left:right]
        start = at
