"""Cutting a text into sentences to translate, and the glue between them that is kept as it is.

The library is sentencex (Wikimedia; rules for some 300 languages, no model, no network). It knows English
abbreviations well and French ones hardly; those that matter are added here.
"""

import re

import sentencex  # type: ignore[import-untyped]

# What a reader sees as another line (str.splitlines), with the white space around it.
_BREAK = re.compile(r"(\s*[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]\s*)")
# A full stop that belongs to its word: M. Dupont, Mr. Smith, J. Verne, 3 janv. 1980. Words that often end a
# sentence (etc., no) are not here: a cut too few loses a little quality, a cut too many does too.
_ABBREVIATION = re.compile(
    r"(?<!\w)(?:[A-ZÀ-Þ]|(?i:m|mm|mmes?|mlles?|mgr|mr|mrs|ms|dr|pr|prof|ste?|sr|jr|vs|pp?|art|cf|fig|vol|env|av|bd"
    r"|g[eé]n|col|lt|capt?|sgt|rev|hon|gov|sen|rep|inc|ltd|corp|dept|univ|mt|janv|f[eé]vr?|juil|sept|oct|nov|d[eé]c"
    r"|jan|feb|apr|aug))\.\Z"
)
_NUMBERED = re.compile(r"(?i:(?<!\w)(?:n|no|nos|nr)\.\Z)")  # no. 5, but not: He said no. Then he left.
_OPENING = re.compile(r"""["'«“‘(\[¿¡–—-]*\s*([^\W_])""")
_LONGEST = 2000  # characters at once: the library's time grows with the square on a line of nothing but marks


def split_text(text: str, language: str = "en") -> list[tuple[bool, str]]:
    """``text`` as parts that, joined, are ``text``: ``(True, sentence)`` or ``(False, glue)``.

    Lines are never joined. Sentences neither begin nor end with white space; glue is white space only.

    Args:
        language: code of the text's language; an unknown one has the rules that all languages share.
    """
    parts: list[tuple[bool, str]] = []
    for place, piece in enumerate(_BREAK.split(text)):
        stripped = piece.strip()
        if place % 2 or not stripped:
            parts.append((False, piece))
            continue
        start = piece.index(stripped)
        parts.append((False, piece[:start]))
        parts += _split_line(stripped, language)
        parts.append((False, piece[start + len(stripped) :]))
    return [part for part in parts if part[1]]


def sentence_ends(line: str, language: str) -> list[int]:
    """Where sentences of ``line`` end and others begin: places in the white space between them."""
    ends = []
    for start in range(0, len(line), _LONGEST):
        found = sentencex.get_sentence_boundaries(language, line[start : start + _LONGEST])
        ends += [start + boundary["end_index"] for boundary in found[:-1]]
    return [end for end in ends if _ends(line, end)]


def _ends(line: str, end: int) -> bool:
    before, after = line[:end].rstrip(), line[end:].lstrip()
    if not before or not after or not (line[end - 1].isspace() or line[end].isspace()):
        return False
    if _NUMBERED.search(before[-8:]) and after[0].isdigit():
        return False
    first = _OPENING.match(after)
    return first is not None and not first[1].islower() and _ABBREVIATION.search(before[-8:]) is None


def _split_line(line: str, language: str) -> list[tuple[bool, str]]:
    parts: list[tuple[bool, str]] = []
    start = 0
    for end in (*sentence_ends(line, language), len(line)):
        piece = line[start:end]
        sentence = piece.strip()
        if not sentence:
            continue
        at = piece.index(sentence)
        parts += [(False, piece[:at]), (True, sentence), (False, piece[at + len(sentence) :])]
        start = end
    return parts
