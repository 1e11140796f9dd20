"""Real texts to measure with: sentences of Tatoeba to translate, beginnings of lines to complete, words."""

from __future__ import annotations

import lzma
import os
import random
from itertools import islice
from pathlib import Path

from bundle.tokenizer import Tokenizer
from bundle.vectors import Vectors

_LINES = 50_000  # read of a file
_WORDS = 60  # most words of a prompt


class NoTexts(OSError):
    """The folder of corpora is not there."""


def corpora() -> Path:
    """The folder that VOISIN_DATA names.

    Raises:
        NoTexts: it is not set, or names no folder.
    """
    path = Path(os.environ.get("VOISIN_DATA", ""))
    if not os.environ.get("VOISIN_DATA") or not path.is_dir():
        raise NoTexts("VOISIN_DATA must name the folder of corpora (parallel/, mono/); needed by --measure")
    return path


def sentences(language: str, count: int, *, seed: int = 0) -> list[str]:
    """Distinct sentences of Tatoeba, drawn at random: what is translated."""
    column = ("en", "fr").index(language)
    path = corpora() / "parallel" / "tatoeba.en-fr.tsv.xz"
    with lzma.open(path, "rt", encoding="utf-8") as file:
        found = {line.rstrip("\n").split("\t")[column] for line in file}
    return random.Random(seed).sample(sorted(found), count)


def prompts(language: str, tokenizer: Tokenizer, most: int, count: int, *, seed: int = 0) -> list[str]:
    """Beginnings of lines, cut after a random word: of Wikipedia in English, of Common Voice in French.

    At most `most` tokens long; what the tokenizer cannot spell is left out.
    """
    mono = corpora() / "mono"
    path = mono / "en_wiki" / "en_wiki_07.txt.xz" if language == "en" else mono / "fr_common_voice.txt.xz"
    with lzma.open(path, "rt", encoding="utf-8") as file:
        lines = [line.split() for line in islice(file, _LINES)]
    chance, found = random.Random(seed), {}
    while len(found) < count:
        words = chance.choice(lines)
        if len(words) > 1:
            text = " ".join(words[: chance.randrange(1, min(len(words), _WORDS))])
            if len(tokenizer.encode(text)) < most:
                found[text] = None
    return list(found)


def words(vectors: Vectors, count: int) -> list[str]:
    """The most frequent words of a vocabulary that are spelt with letters."""
    known = (vectors.word_of(id) for id in range(vectors.rows.size))
    return list(islice((word for word in known if word.isalpha()), count))
