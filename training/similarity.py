"""How good word vectors are: analogies, and agreement with human judgements of similarity.

The sets are those of the literature: questions-words (Mikolov et al. 2013), WordSim-353 (Finkelstein et al.
2002) and SimLex-999 (Hill et al. 2015). They are read from `${VOISIN_DATA}/eval_public` where that is set,
else from the copies inside gensim, so that no corpus is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from gensim.test.utils import datapath
from scipy.stats import spearmanr

from training.corpus import CorpusError, read_lines

Matrix = npt.NDArray[np.float32]

QUESTIONS = "questions-words.txt"
PAIRS = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt"}
_BLOCK = 512  # questions answered by one product

FRENCH = Path(__file__).with_name("analogies-fr.txt")
"""A small set of our own, for want of a public one: pairs of words of novels and of every day."""


class Section(msgspec.Struct, frozen=True):
    """Analogies of one kind: `questions` asked, `known` with all four words in the vocabulary, `correct`."""

    name: str
    questions: int
    known: int
    correct: int


class Agreement(msgspec.Struct, frozen=True):
    """Spearman's rank correlation over the `known` of `pairs` word pairs."""

    spearman: float
    pairs: int
    known: int


class Space:
    """Words with unit vectors.

    words: one a row; lower case is expected, as the evaluation sets are lower-cased.
    vectors: float [words, hidden]; rows of zeros (special tokens) are no words.
    """

    def __init__(self, words: Sequence[str], vectors: Matrix) -> None:
        lengths = np.linalg.norm(vectors, axis=1)
        rows = np.flatnonzero(lengths)
        self.words = [words[int(row)] for row in rows]
        self.unit: Matrix = (vectors[rows] / lengths[rows, None]).astype(np.float32)
        self.index = {word: row for row, word in enumerate(self.words)}

    def most_similar(
        self, positive: Sequence[str], negative: Sequence[str] = (), topn: int = 10
    ) -> list[tuple[str, float]]:
        """Neighbours of the sum of unit vectors (3CosAdd), without the query's words.

        Raises: KeyError for an unknown word.
        """
        rows = [self.index[word] for word in (*positive, *negative)]
        signs = np.array([1.0] * len(positive) + [-1.0] * len(negative), np.float32)
        query = signs @ self.unit[rows]
        scores = self.unit @ (query / np.linalg.norm(query))
        scores[rows] = -np.inf
        best = np.argsort(-scores, kind="stable")[:topn]
        return [(self.words[row], float(scores[row])) for row in best if np.isfinite(scores[row])]

    def cosine(self, one: str, two: str) -> float:
        """Cosine of two known words."""
        return float(self.unit[self.index[one]] @ self.unit[self.index[two]])


def evaluate(words: Sequence[str], vectors: Matrix) -> dict[str, object]:
    """Every measure, as evaluation.json holds it. Accuracies are over all questions: unknown is wrong."""
    space = Space(words, vectors)
    sections = analogies(space, evaluation_file(QUESTIONS))
    out: dict[str, object] = {"analogies": summary(sections)}
    for name, file in PAIRS.items():
        out[name] = msgspec.to_builtins(agreement(space, evaluation_file(file)))
    return out


def summary(sections: Sequence[Section]) -> dict[str, object]:
    """Totals over the sections, semantic and syntactic (`gram...`) apart."""

    def total(chosen: Sequence[Section]) -> dict[str, object]:
        questions, known, correct = (
            sum(getattr(section, field) for section in chosen) for field in ("questions", "known", "correct")
        )
        return {
            "accuracy": correct / questions if questions else 0.0,
            "coverage": known / questions if questions else 0.0,
            "questions": questions,
        }

    syntactic = [section for section in sections if section.name.startswith("gram")]
    semantic = [section for section in sections if not section.name.startswith("gram")]
    return {
        **total(sections),
        "semantic": total(semantic),
        "syntactic": total(syntactic),
        "sections": [msgspec.to_builtins(section) for section in sections],
    }


def analogies(space: Space, path: Path) -> list[Section]:
    """Answer `a b c d` (a is to b as c is to what?) by 3CosAdd over the whole vocabulary, by section."""
    out = []
    for name, questions in _sections(path):
        known = [
            [space.index[word] for word in question]
            for question in questions
            if all(word in space.index for word in question)
        ]
        correct = 0
        for start in range(0, len(known), _BLOCK):
            a, b, c, d = np.array(known[start : start + _BLOCK]).T
            unit = space.unit
            scores = (unit[b] - unit[a] + unit[c]) @ unit.T
            rows = np.arange(len(a))
            for asked in (a, b, c):
                scores[rows, asked] = -np.inf
            correct += int((scores.argmax(1) == d).sum())
        out.append(Section(name, len(questions), len(known), correct))
    return out


def agreement(space: Space, path: Path) -> Agreement:
    """Spearman's rho between the cosines and the judgements of a file of `word word number` lines.

    Pairs with an unknown word are left out and counted; rho is 0 where fewer than three are known.
    """
    human, ours, total = [], [], 0
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        try:
            one, two, score = fields[0].lower(), fields[1].lower(), float(fields[2])
        except (IndexError, ValueError):
            raise CorpusError(f"{path}:{number}", "expected two words and a number") from None
        total += 1
        if one in space.index and two in space.index:
            human.append(score)
            ours.append(space.cosine(one, two))
    rho = float(spearmanr(human, ours).statistic) if len(human) > 2 else 0.0
    return Agreement(rho, total, len(human))


def evaluation_file(name: str) -> Path:
    """Where an evaluation set lies: with the corpora, or in gensim."""
    folder = os.environ.get("VOISIN_DATA")
    if folder:
        for candidate in (name, f"{name}.xz"):
            path = Path(folder) / "eval_public" / candidate
            if path.is_file():
                return path
    return Path(datapath(name))


def _sections(path: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """Sections of questions. A line of two words is a pair; every two pairs of a section are a question."""
    name, questions, pairs = "", list[list[str]](), list[list[str]]()
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.lower().split()
        if line.startswith(":"):
            yield from _section(name, questions, pairs)
            name, questions, pairs = line[1:].strip(), [], []
        elif len(fields) == 4:
            questions.append(fields)
        elif len(fields) == 2:
            pairs.append(fields)
        elif fields:
            raise CorpusError(f"{path}:{number}", "expected four words, or two")
    yield from _section(name, questions, pairs)


def _section(
    name: str, questions: list[list[str]], pairs: list[list[str]]
) -> Iterator[tuple[str, list[list[str]]]]:
    asked = questions + [[*one, *other] for one, other in permutations(pairs, 2) if not set(one) & set(other)]
    if asked:
        yield name, asked
