"""Running text as lower-case words: what Word2Vec reads."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gensim.models.phrases import ENGLISH_CONNECTOR_WORDS, Phrases

# A word may hold an apostrophe (don't, aujourd'hui); the possessive and the elided articles stand alone.
_WORD = {
    "en": re.compile(r"'s\b|\w+(?:'(?!s\b)\w+)*"),
    "fr": re.compile(r"\b(?:[cdjlmnst]|qu|jusqu|lorsqu|puisqu|quoiqu)'(?=\w)|\w+(?:'\w+)*"),
}
# Words that may stand inside a phrase but neither begin nor end it.
_CONNECTORS = {
    "en": ENGLISH_CONNECTOR_WORDS,
    "fr": frozenset(
        [
            "a",
            "à",
            "au",
            "aux",
            "d'",
            "de",
            "des",
            "du",
            "en",
            "et",
            "l'",
            "la",
            "le",
            "les",
            "ou",
            "par",
            "pour",
        ]
    ),
}
_DISTINCT = 4_000_000


def words(text: str, language: str = "en") -> list[str]:
    """The words of a text: NFC, lower case, without punctuation, numbers and possessive 's.

    French elisions are words of their own (l'eau -> l', eau); hyphens separate. Languages other than French
    are cut as English.
    """
    text = unicodedata.normalize("NFC", text).replace("’", "'").lower()
    found = _WORD.get(language, _WORD["en"]).findall(text)
    return [word for word in found if word[0].isalpha() and "_" not in word]


def write_sentences(texts: Iterable[str], path: Path, language: str) -> tuple[int, int]:
    """Write each text as one line of words; returns how many lines and words there are."""
    lines = total = 0
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            found = words(text, language)
            if len(found) > 1:
                file.write(" ".join(found) + "\n")
                lines += 1
                total += len(found)
    return lines, total


def read_sentences(path: Path) -> Iterator[list[str]]:
    """The lines that write_sentences wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield line.split()


@dataclass(frozen=True)
class Shard:
    """A file of sentences, with how many lines and words it has."""

    path: Path
    lines: int
    words: int


def split_sentences(path: Path, size: int) -> list[Shard]:
    """Cut the file into shards of about `size` words, beside it."""
    shards: list[Shard] = []
    with path.open(encoding="utf-8") as file:
        while line := file.readline():
            target = path.with_name(f"{path.stem}-{len(shards):05}.txt")
            lines = total = 0
            with target.open("w", encoding="utf-8") as out:
                while line:
                    out.write(line)
                    lines += 1
                    total += line.count(" ") + 1
                    line = file.readline() if total < size else ""
            shards.append(Shard(target, lines, total))
    return shards


def count_words(path: Path) -> Counter[str]:
    """How often each word occurs. The rarest are forgotten where memory would not be bounded otherwise."""
    counts: Counter[str] = Counter()
    floor = 0
    for sentence in read_sentences(path):
        counts.update(sentence)
        if len(counts) > _DISTINCT:
            floor += 1
            counts = Counter({word: count for word, count in counts.items() if count > floor})
    return counts


def join_phrases(
    path: Path,
    language: str,
    *,
    min_count: int,
    threshold: float = 0.6,
    sample: int = 6_000_000,
) -> int:
    """Rewrite the file with its collocations joined (`new york` -> `new_york`); returns how many there are.

    Collocations are pairs whose normalised pointwise mutual information (Bouma 2009) reaches `threshold`, in
    the first `sample` words. A second call joins what the first made longer.
    """
    connectors = _CONNECTORS.get(language, _CONNECTORS["en"])
    model = Phrases(
        _first(read_sentences(path), sample),
        min_count=min_count,
        threshold=threshold,
        scoring="npmi",
        connector_words=connectors,
        delimiter=" ",
    )
    phrases = [phrase.split(" ") for phrase in model.export_phrases()]
    tails: dict[str, list[list[str]]] = {}
    for first, *rest in sorted(phrases, key=lambda phrase: (-len(phrase), phrase)):
        tails.setdefault(first, []).append(rest)
    joined = path.with_suffix(".joined")
    with joined.open("w", encoding="utf-8") as file:
        for sentence in read_sentences(path):
            file.write(" ".join(_joined(sentence, tails)) + "\n")
    joined.replace(path)
    return len(phrases)


def _joined(sentence: list[str], tails: dict[str, list[list[str]]]) -> list[str]:
    """Left to right, the longest phrase first. What was elided is joined as it is written: coup_d'œil."""
    out = []
    place = 0
    while place < len(sentence):
        word = sentence[place]
        place += 1
        for tail in tails.get(word, ()):
            if sentence[place : place + len(tail)] == tail:
                word = "_".join([word, *tail]).replace("'_", "'")
                place += len(tail)
                break
        out.append(word)
    return out


def _first(sentences: Iterable[list[str]], count: int) -> Iterator[list[str]]:
    for sentence in sentences:
        yield sentence
        count -= len(sentence)
        if count <= 0:
            return
