"""Words and short phrases with their translations, taken out of sentence pairs.

People type single words into a translator. A corpus of sentences hardly has any, and a model that has seen
sentences only makes a sentence of everything. Phrase pairs consistent with a word alignment (Och and Ney
2004) give it the missing examples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from training.alignment import Link, align

_TOKEN = re.compile(r"\w+(?:[-'’]\w+)*['’]?|[^\w\s]")
_LONGEST = 14  # words of a sentence: alignment takes the product of both lengths
_CHUNK = 200_000  # pairs aligned at a time, which bounds memory

#: articles and elisions, which translate into anything, and into nothing
_FUNCTION = {
    "en": {"the", "a", "an", "of", "to"},
    "fr": {"le", "la", "les", "un", "une", "des", "du", "de", "au", "aux", "à", "ne", "se", "en", "y", "que"},
}

Phrase = tuple[str, ...]


def tokens(text: str) -> list[str]:
    """Words and punctuation marks; an elided article stands alone, with its apostrophe (`l'eau`)."""
    out: list[str] = []
    for token in _TOKEN.findall(text.replace("’", "'")):
        head, mark, tail = token.partition("'")
        if (
            mark
            and tail
            and len(head) <= 2
            and head.lower() not in ("o",)
            and tail not in ("s", "t", "ll", "re", "ve", "m", "d")
        ):
            out += [head + mark, tail]
        else:
            out.append(token)
    return out


def phrase_pairs(
    pairs: Iterable[tuple[str, str]],
    languages: tuple[str, str],
    *,
    count: int,
    longest: int = 3,
    least: int = 2,
    share: float = 0.3,
) -> list[tuple[str, str]]:
    """The `count` most frequent phrases of the source with their translations, likeliest first.

    Args:
        pairs: sentences; long ones are left out.
        longest: words of a phrase, on the source side; the target side may have one more.
        least: times that a phrase and its translation are seen together.
        share: of the occurrences of a phrase that its translation must account for.

    Returns:
        Text pairs without punctuation, in lower case but for words that are capitalised inside sentences.
    """
    found: Counter[tuple[Phrase, Phrase]] = Counter()
    stream = iter(pairs)
    while chunk := list(islice(stream, _CHUNK)):
        cut = [(tokens(source), tokens(target)) for source, target in chunk]
        cut = [(one, two) for one, two in cut if 0 < len(one) <= _LONGEST and 0 < len(two) <= _LONGEST]
        lowered = [([w.lower() for w in one], [w.lower() for w in two]) for one, two in cut]
        for (one, two), links in zip(cut, align(lowered), strict=True):
            found.update(_consistent(_uncapitalised(one), _uncapitalised(two), links, longest))
    return _chosen(found, languages, count, least, share)


def _uncapitalised(words: Sequence[str]) -> list[str]:
    """The first word of a sentence says nothing about its own case: in lower case unless it is `I` or the
    like; names are learned from inside of sentences."""
    return [words[0].lower() if words[0] not in ("I",) else words[0], *words[1:]]


def _consistent(
    source: Sequence[str], target: Sequence[str], links: Sequence[Link], longest: int
) -> Iterable[tuple[Phrase, Phrase]]:
    """Phrase pairs all of whose links stay inside, with a link at every border, without punctuation."""
    forward: dict[int, list[int]] = {}
    backward: dict[int, list[int]] = {}
    for i, j in links:
        forward.setdefault(i, []).append(j)
        backward.setdefault(j, []).append(i)
    for start in range(len(source)):
        if start not in forward:
            continue
        low, high = len(target), -1
        for end in range(start, min(start + longest, len(source))):
            if not source[end][0].isalpha():
                break
            if end not in forward:
                continue
            low, high = min(low, *forward[end]), max(high, *forward[end])
            if high - low > longest or any(not target[j][0].isalpha() for j in range(low, high + 1)):
                break
            if all(start <= i <= end for j in range(low, high + 1) for i in backward.get(j, ())):
                yield tuple(source[start : end + 1]), tuple(target[low : high + 1])


def _chosen(
    found: Counter[tuple[Phrase, Phrase]], languages: tuple[str, str], count: int, least: int, share: float
) -> list[tuple[str, str]]:
    totals: Counter[Phrase] = Counter()
    for (source, _), times in found.items():
        totals[source] += times
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    out: list[tuple[str, str]] = []
    for (source, target), times in ranked:
        if times < least or times < share * totals[source]:
            continue
        if any(
            _loose(phrase, language) for phrase, language in zip((source, target), languages, strict=True)
        ):
            continue
        out.append((joined(source), joined(target)))
        if len(out) == count:
            break
    return out


def _loose(phrase: Phrase, language: str) -> bool:
    """Whether a phrase ends in mid-air, or is nothing but function words."""
    function = _FUNCTION.get(language, set())
    return phrase[-1] in function or phrase[-1].endswith("'") or all(word in function for word in phrase)


def joined(phrase: Sequence[str]) -> str:
    """`l'`, `eau` -> `l'eau`."""
    return " ".join(phrase).replace("' ", "'")
