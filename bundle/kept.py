"""What a translation must hand back as it is: placeholders, tags, addresses, numbers, terms to keep."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

#: Stands in a text for something without words that is one thing: a piece of code inside a paragraph.
OBJECT = "\ufffc"

Kind = Literal["number", "symbol", "mark"]

_DOMAINS = "com|org|net|edu|gov|int|info|io|dev|eu|fr|be|ch|ca|lu|uk|ie|us|au|de|es|it|nl"
_UNITS = (
    r"%|‰|°[CF]?|€|\$(?![\w{])|£|¥|km/h|m/s|[kcmµnd]?m[²³23]?|[km]?g"
    r"|[cdm]?l|[mµn]?s|min|h|[kMG]?(?:Hz|Wh?|V)|[KMGT]i?B"
)
_PATTERNS: tuple[tuple[Kind, str], ...] = (
    ("mark", r"<!--[^<>\n]{0,200}-->|</?[A-Za-z][^<>\n]*>"),
    ("mark", r"`[^`\n]+`"),
    ("mark", r"\{\{[^{}\n]*\}\}|\{%[^\n]{0,200}?%\}|[$#%@]?\{[^{}\s]*\}"),
    ("mark", r"&(?:[A-Za-z]\w*|#\d+|#[xX][0-9A-Fa-f]+);"),
    ("mark", r"(?<![\w.+-])(?:mailto:)?[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    (
        "mark",
        r"(?:(?<![\w+.-])[A-Za-z][A-Za-z0-9+.-]*://|(?<!\w)www\.)"
        r"(?:[^\s<>\"'«»“”’\ufffc()]|\([^\s<>\"'()]*\))+(?<![.,;:!?\]}…])",
    ),
    ("mark", rf"(?<![\w@.-])(?:[\w-]+\.)+(?:{_DOMAINS})(?![\w@-]|\.\w)(?:/[^\s<>\"'«»’]*[\w/])?"),
    ("mark", r"(?<!\d)%(?:\d+\$)?(?:\(\w+\))?[-+#0]*\d*(?:\.\d+)?(?:hh?|ll?|[Lzjtq])?[diouxXeEfFgGcspn@%]"),
    ("mark", r"\$[A-Za-z_]\w*"),
    ("mark", r"(?<!\w)[@#][^\W\d]\w*"),
    ("mark", "[\U0001f000-\U0001faff\u2600-\u27bf\u200d\ufe0f\u20e3]+"),
    ("mark", OBJECT),
    (
        "number",
        r"(?:[€$£¥] ?)?(?<![\w.,])[+−-]?\d+(?:(?:[.,:/’'×-]|(?<=\d) (?=\d{3}(?!\d)))\d+)*"
        rf"(?![\w])(?: ?(?:{_UNITS})(?!\w))?",
    ),
)
_REACH = 40  # characters of a text that decide whether it runs on
_KINDS = tuple(kind for kind, _ in _PATTERNS)
_KEPT = re.compile("|".join(f"({pattern})" for _, pattern in _PATTERNS))


class Kept(NamedTuple):
    """A stretch of a text that comes back as ``plain``.

    A number or a symbol can be shown to a model as it is; a mark would only confuse it.
    """

    start: int
    end: int
    plain: str
    kind: Kind = "mark"


def find_kept(text: str, glossary: Mapping[str, str] | None = None) -> list[Kept]:
    """What in ``text`` is to come back, in order, not overlapping; the terms of ``glossary`` first.

    Args:
        glossary: from a term to what stands for it in the translation, which is the term itself where it is
            to be kept. Whole words only, spelt exactly so.
    """
    found: list[Kept] = []
    at = 0
    for start, end in _terms_of(text, tuple(glossary or ())):
        found += _marks(text, at, start)
        found.append(Kept(start, end, (glossary or {})[text[start:end]]))
        at = end
    return [*found, *_marks(text, at, len(text))]


def intact(text: str, kept: Sequence[Kept], *, spelt: bool) -> bool:
    """Whether a translation has each of ``kept`` as often as the source, and nothing else of their kinds.

    Args:
        spelt: whether it may have further numbers: the source may have spelt them out.
    """
    wanted = Counter(each.plain for each in kept)
    # they are found as a reader finds them: 5 and 100 side by side have become 5 100
    terms = {plain: plain for plain in wanted if not _natural(plain)}
    found = find_kept(text, terms)
    return wanted == Counter(
        each.plain for each in found if each.kind != "number" or not spelt or each.plain in wanted
    )


def runs_on(text: str) -> bool:
    """Whether a number just after the text would be read as one with its end: ``10 000`` and ``100``, ``€``
    and ``5``."""
    found = find_kept(f"{text[-_REACH:]} 100")
    return not found or found[-1].plain != "100"


def has_words(text: str, kept: Sequence[Kept] = ()) -> bool:
    """Whether there is a letter beside ``kept``."""
    at = 0
    for each in kept:
        if any(map(str.isalpha, text[at : each.start])):
            return True
        at = each.end
    return any(map(str.isalpha, text[at:]))


@lru_cache(maxsize=1024)
def _natural(plain: str) -> bool:
    """Whether it is found without being named; symbols and terms of a glossary are not."""
    return [each.plain for each in find_kept(plain)] == [plain]


def _marks(text: str, start: int, end: int) -> Iterator[Kept]:
    for match in _KEPT.finditer(text, start, end):
        assert match.lastindex is not None
        yield Kept(match.start(), match.end(), match[0], _KINDS[match.lastindex - 1])


def _terms_of(text: str, terms: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    pattern = _term_pattern(terms)
    return (match.span() for match in pattern.finditer(text)) if pattern else iter(())


@lru_cache(maxsize=64)
def _term_pattern(terms: tuple[str, ...]) -> re.Pattern[str] | None:
    """Any of the terms as a whole word, the longest that fits."""
    parts = [
        (r"(?<!\w)" if term[0].isalnum() else "")
        + re.escape(term)
        + (r"(?!\w)" if term[-1].isalnum() else "")
        for term in sorted(terms, key=lambda term: (-len(term), term))
        if term
    ]
    return re.compile("|".join(parts)) if parts else None
