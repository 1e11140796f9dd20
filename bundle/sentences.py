"""Cutting a text into sentences to translate, and the glue between them that is kept as it is."""

import re

# An end, closing quotes or brackets, space, and then what may begin a sentence.
_END = re.compile(r"""[.!?…]+["'»”’)\]]*(\s+)(?=["'«“‘(\[¿¡\-–—]*\s*[A-ZÀ-ÖØ-ÞŒŸ0-9])""")
# A full stop that belongs to its word: M. Dupont, Mr. Smith, J. Verne. Words that often end a sentence (etc.,
# no.) are not here: a cut too few loses a little quality, a cut too many does too.
_ABBREVIATION = re.compile(
    r"(?<!\w)(?:[A-ZÀ-Þ]|(?i:m|mm|mmes?|mlles?|mr|mrs|ms|dr|pr|prof|ste?|sr|jr|vs|pp?|art|cf|fig|vol|env|av|bd"
    r"|g[eé]n|col|lt|capt?|sgt|rev|hon|gov|sen|rep|inc|ltd|corp|dept|univ))\.\Z"
)


def split_text(text: str) -> list[tuple[bool, str]]:
    """``text`` as parts that, joined, are ``text``: ``(True, sentence)`` or ``(False, glue)``.

    Lines are never joined. Sentences neither begin nor end with white space; glue is white space only.
    """
    parts: list[tuple[bool, str]] = []
    for piece in re.split(r"(\s*[\r\n]\s*)", text):
        stripped = piece.strip()
        if not stripped:
            parts.append((False, piece))
            continue
        start = piece.index(stripped)
        parts.append((False, piece[:start]))
        parts += _split_line(stripped)
        parts.append((False, piece[start + len(stripped) :]))
    return [part for part in parts if part[1]]


def _split_line(line: str) -> list[tuple[bool, str]]:
    parts: list[tuple[bool, str]] = []
    start = 0
    for end in _END.finditer(line):
        if _ABBREVIATION.search(line, start, end.start() + 1):
            continue
        parts += [(True, line[start : end.start(1)]), (False, end[1])]
        start = end.end(1)
    parts.append((True, line[start:]))
    return parts
