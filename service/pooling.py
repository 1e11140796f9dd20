"""One vector for a short text: the mean of its words' vectors. What of it is unknown is told, never zeros."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InvalidRequest, UnknownWord
from bundle.vectors import Vectors

LONGEST_PHRASE = 4  # words
MOST_WORDS = 1024  # of one text
_RUN = re.compile(r"\w+(?:['’‐-]\w+)*")
_JOINT = re.compile(r"['’‐-]")

Floats = NDArray[np.float32]


@dataclass
class Reading:
    """What a text holds: words the model answers, in order, and words it does not."""

    known: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def read(vectors: Vectors, text: str) -> Reading:
    """The words of a text, phrases before words, elided and hyphenated words in parts where need be.

    Raises:
        UnknownWord: none of them is known.
        InvalidRequest: there are none, or too many.
    """
    if _answers(vectors, text) and text.strip():
        return Reading([text])
    runs = [run[0] for run in _RUN.finditer(text)]
    if len(runs) > MOST_WORDS:
        raise InvalidRequest("input", f"has {len(runs)} words, at most {MOST_WORDS}", limit=MOST_WORDS)
    found = Reading()
    place = 0
    while place < len(runs):
        place += _take(vectors, runs[place : place + LONGEST_PHRASE], found)
    if not found.known:
        if not found.unknown:
            vectors.lookup(text)  # says what is wrong with a text without words
        first = found.unknown[0] if found.unknown else text
        raise UnknownWord(first, vectors.did_you_mean(first))
    return found


def read_ids(vectors: Vectors, ids: list[int]) -> Reading:
    """The words with these ids.

    Raises:
        InvalidRequest: there are none, or too many, or one stands for no word.
    """
    tokenizer = vectors.tokenizer
    if not 0 < len(ids) <= MOST_WORDS:
        raise InvalidRequest(
            "input", f"has {len(ids)} ids; there must be 1 to {MOST_WORDS}", limit=MOST_WORDS
        )
    for id in ids:
        if not 0 <= id < tokenizer.size or id in tokenizer.special_ids:
            raise InvalidRequest("input", f"has the id {id}, which stands for no word")
    return Reading([tokenizer.token_of(id) for id in ids])


def pool(vectors: Vectors, readings: list[Reading], *, normalize: bool = True) -> list[Floats]:
    """A vector for each reading, float32[hidden]: the mean of the unit vectors of its known words.

    Args:
        normalize: bring the mean to unit length, so that the dot product of two is their cosine.

    Raises:
        InvalidRequest: the words of a text cancel each other out.
    """
    words = [word for reading in readings for word in reading.known]
    rows = vectors.embed(words)
    means: list[Floats] = []
    start = 0
    for reading in readings:
        end = start + len(reading.known)
        mean = rows[start] if end - start == 1 else rows[start:end].mean(axis=0, dtype=np.float32)
        means.append(unit(mean) if normalize and end - start > 1 else mean)
        start = end
    return means


def shorten(vector: Floats, dimensions: int) -> Floats:
    """The first `dimensions` numbers, made a unit vector again.

    Raises:
        InvalidRequest: there are not so many.
    """
    if dimensions > len(vector):
        raise InvalidRequest("dimensions", f"must be at most {len(vector)}", limit=len(vector))
    return vector if dimensions == len(vector) else unit(vector[:dimensions])


def unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    if length < 1e-6:
        raise InvalidRequest("input", "has words that cancel each other out: no direction is left")
    return np.asarray(vector / np.float32(length), np.float32)


def _answers(vectors: Vectors, word: str) -> bool:
    return word in vectors or vectors.composes(word)


def _take(vectors: Vectors, runs: list[str], found: Reading) -> int:
    """Note the word or phrase that the runs begin with; how many of them it is."""
    for count in range(len(runs), 1, -1):
        phrase = " ".join(runs[:count])
        if phrase in vectors:
            found.known.append(phrase)
            return count
    run = runs[0]
    if _answers(vectors, run):
        found.known.append(run)
        return 1
    for part in _JOINT.split(run):
        (found.known if _answers(vectors, part) else found.unknown).append(part)
    return 1
