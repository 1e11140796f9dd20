"""More to learn from the same pairs of sentences, for what people type and corpora lack.

Single words and short phrases; sentences without capital and final mark; names and numbers never seen, which
are to be copied. Everything is drawn from random numbers that depend on the seed and the epoch alone.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from training.config import Augment

Pair = tuple[str, str]

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")
_NAME = re.compile(r"(?<=[a-zà-ÿ,] )[A-ZÀ-Þ][a-zà-ÿ]{2,}(?: [A-ZÀ-Þ][a-zà-ÿ]{2,}){0,2}(?![\w-])")
_SHARED = re.compile(r"[A-ZÀ-Þ][a-zà-ÿ]+|\d+")
_MARKS = ".!?…"
_VOWELS = "aàâeéèêëiîïoôuûüyhAÀÂEÉÈÊËIÎÏOÔUÛÜYH"


@dataclass(frozen=True)
class Names:
    """Names by what an article before them looks like in French: `de Marie`, but `d'Anne`."""

    consonant: Sequence[str]
    vowel: Sequence[str]

    def draw(self, draw: random.Random, like: str) -> str:
        """A name that begins as `like` does, as it stands where there is none."""
        pool = self.vowel if like[0] in _VOWELS else self.consonant
        return draw.choice(pool) if pool else like


def find_names(lines: Iterable[str], excluded: Iterable[str] = ()) -> Names:
    """What is capitalised inside sentences and never in lower case, up to three words long, sorted.

    excluded: words that have a translation (London, Monday).
    """
    seen: Counter[str] = Counter()
    lower: set[str] = {word.lower() for word in excluded}
    for line in lines:
        seen.update(_NAME.findall(line))
        lower.update(word for word in _WORD.findall(line) if word[0].islower())
    kept = sorted(name for name in seen if not any(word.lower() in lower for word in name.split()))
    return Names(
        [name for name in kept if name[0] not in _VOWELS], [name for name in kept if name[0] in _VOWELS]
    )


def augmented(
    pairs: Iterable[Pair], wishes: Augment, *, phrases: Sequence[Pair], names: Names, seed: tuple[int, int]
) -> Iterator[Pair]:
    """`pairs`, changed here and there and with others between them.

    phrases: pairs of words and phrases, the most frequent first.
    seed: of the job, and the number of the epoch.
    """
    draw = random.Random(f"augment {seed[0]} {seed[1]}")
    for pair in pairs:
        if draw.random() < wishes.substitute:
            pair = _substituted(pair, names, draw)
        if draw.random() < wishes.bare:
            pair = bare(pair, lower=draw.random() < 0.5)
        elif wishes.capitals and all(side[:1].islower() for side in pair) and draw.random() < wishes.capitals:
            pair = _raised(pair)
        yield pair
        if phrases and draw.random() < wishes.phrases_rate:
            # Zipf's law, evened out: the first half of the table is drawn about as often as the rest
            yield _cased(phrases[int(len(phrases) * draw.random() ** 2)], draw)
        if draw.random() < wishes.copies:
            copied = _copied(names, draw)
            yield copied, copied


def bare(pair: Pair, *, lower: bool) -> Pair:
    """Both sides without their final marks, where both have one, and perhaps without the first capital."""
    if all(text[-1:] in _MARKS for text in pair):
        one, two = (text.rstrip(_MARKS + " \u00a0\u202f") for text in pair)
        pair = (one or pair[0], two or pair[1])
    # a name keeps its capital; a word that both sides begin with is taken for one
    if lower and pair[0].split()[:1] != pair[1].split()[:1] and not pair[1].startswith(("I ", "I'")):
        pair = (_lowered(pair[0]), _lowered(pair[1]))
    return pair


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] in " '" else text


def _cased(pair: Pair, draw: random.Random) -> Pair:
    """Now and then with a capital on both sides, as phones write."""
    return _raised(pair) if draw.random() < 0.3 else pair


def _raised(pair: Pair) -> Pair:
    return pair[0][:1].upper() + pair[0][1:], pair[1][:1].upper() + pair[1][1:]


def _substituted(pair: Pair, names: Names, draw: random.Random) -> Pair:
    """One name or number that stands on both sides, replaced by another one."""
    shared = sorted(set(_SHARED.findall(pair[0])) & set(_SHARED.findall(pair[1])))
    # a single letter case apart from the start of a sentence is no name: it must be one inside on a side
    shared = [one for one in shared if one.isdigit() or any(f" {one}" in side for side in pair)]
    if not shared:
        return pair
    old = draw.choice(shared)
    new = _number(draw) if old.isdigit() else names.draw(draw, old)
    pattern = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)")
    return pattern.sub(new, pair[0]), pattern.sub(new, pair[1])


def _number(draw: random.Random) -> str:
    return str(draw.randrange(10 ** draw.randrange(1, 6)))


def _copied(names: Names, draw: random.Random) -> str:
    """A name or a number by itself."""
    pool = [*names.consonant[:1], *names.vowel[:1]]
    if not pool or draw.random() < 0.25:
        return _number(draw)
    return names.draw(draw, "a" if names.vowel and draw.random() < 0.4 else "b")
