"""A text with some stretches replaced, and where each place of one lies in the other."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

Span = tuple[int, int]


@dataclass(frozen=True)
class Edits:
    """``text`` became ``result``.

    Attributes:
        stretches: ``(start, end, new start, new end)`` of each replacement, in order, not overlapping.
    """

    text: str
    result: str
    stretches: tuple[tuple[int, int, int, int], ...]

    @classmethod
    def of(cls, text: str, replacements: Iterable[tuple[int, int, str]]) -> "Edits":
        """``text`` with each ``[start, end)`` replaced by its string; in order, not overlapping."""
        made: list[str] = []
        stretches: list[tuple[int, int, int, int]] = []
        at = length = 0
        for start, end, new in replacements:
            made += [text[at:start], new]
            length += start - at
            stretches.append((start, end, length, length + len(new)))
            length += len(new)
            at = end
        made.append(text[at:])
        return cls(text, "".join(made), tuple(stretches))

    def forward(self, span: Span) -> Span:
        """The part of ``result`` that stands for a part of ``text``; a replacement counts as one."""
        return _moved(self.stretches, span)

    def backward(self, span: Span) -> Span:
        """The part of ``text`` that a part of ``result`` stands for."""
        return _moved([(c, d, a, b) for a, b, c, d in self.stretches], span)


def _moved(stretches: Iterable[tuple[int, int, int, int]], span: Span) -> Span:
    stretches = list(stretches)
    ends = [stretch[1] for stretch in stretches]

    def place(at: int, first: bool) -> int:
        index = bisect_right(ends, at if first else at - 1)
        if index < len(stretches) and stretches[index][0] < at + first:  # inside a replacement
            return stretches[index][2 if first else 3]
        _, end, _, new = stretches[index - 1] if index else (0, 0, 0, 0)
        return at - end + new

    start, end = span
    return place(start, True), place(end, False) if end > start else place(start, True)
