"""Cutting a sentence that is longer than a model can read, where it hurts least."""

import re
from collections.abc import Callable, Iterator, Sequence

from bundle.edits import Span

_SPACE = re.compile(r"\s+")
_CLAUSE = re.compile(r"(?<=[;:,!?…)»”—–.])\s+")
_CONJUNCTION = re.compile(
    r"\s+(?=(?:et|ou|mais|donc|car|ni|que|qui|dont|où|quand|lorsque|parce|puisque|si|comme|pour|avec|sans"
    r"|and|or|but|so|nor|that|which|who|when|where|while|because|since|if|as|for|with|without|to)\b)",
    re.IGNORECASE,
)
_FIRST = 64  # characters that are tried first
_LEAST = 0.4  # of what fits: a better place further back is not worth a shorter piece


def cut(text: str, fits: Callable[[str], bool], whole: Sequence[Span] = ()) -> Iterator[Span]:
    """Parts of ``text`` that fit, in order; between them lies white space only, or nothing.

    A part ends after the punctuation of a clause if it can, else before a conjunction, else at a space, and
    only where there is none inside a word.

    Args:
        fits: whether a part can be read.
        whole: stretches that are not cut, unless one alone does not fit.
    """
    start = 0
    while start < len(text):
        end = _longest(text, start, fits)
        if end < len(text):
            end = _cut(text, start, end, whole)
        yield start, start + len(text[start:end].rstrip())
        start = end + len(text[end:]) - len(text[end:].lstrip())


def _cut(text: str, start: int, end: int, whole: Sequence[Span]) -> int:
    """Where the part that begins at ``start`` ends: at most at ``end``, and after ``start``."""
    least = start + int((end - start) * _LEAST)
    # a space may be the first thing that does not fit any more
    stretch = end + 1 if text[end].isspace() else end
    for pattern, low in ((_CLAUSE, least), (_CONJUNCTION, least), (_SPACE, start + 1)):
        found = [match.start() for match in pattern.finditer(text, start, stretch)]
        good = [at for at in found if low <= at and not _inside(at, whole)]
        if good:
            return good[-1]
    inside = [left for left, right in whole if start < left < end < right]
    return inside[-1] if inside else end


def _inside(at: int, whole: Sequence[Span]) -> bool:
    return any(left < at < right for left, right in whole)


def _longest(text: str, start: int, fits: Callable[[str], bool]) -> int:
    """About the furthest end of a part that begins at ``start`` and fits; at least one character."""
    size = _FIRST
    while start + size < len(text) and fits(text[start : start + size]):
        size *= 2
    if start + size >= len(text) and fits(text[start:]):
        return len(text)
    low, high = start + 1, min(start + size, len(text))
    while low < high:
        middle = (low + high + 1) // 2
        if fits(text[start:middle]):
            low = middle
        else:
            high = middle - 1
    return low
