"""The yardsticks of word vectors, against worked cases and against gensim's own evaluation."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors
from gensim.test.utils import datapath

from training.corpus import CorpusError
from training.similarity import (
    PAIRS,
    QUESTIONS,
    Agreement,
    Section,
    Space,
    agreement,
    analogies,
    evaluate,
    evaluation_file,
    summary,
)


@pytest.fixture(autouse=True)
def _no_corpora(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOISIN_DATA", raising=False)


@pytest.fixture(scope="module")
def trained() -> KeyedVectors:
    """Random vectors for half of the words that the sets ask for."""
    words = set()
    for name in (QUESTIONS, *PAIRS.values()):
        for line in Path(datapath(name)).read_text(encoding="utf-8").splitlines():
            if not line.startswith((":", "#")):
                words |= {word for word in line.lower().split() if word.isalpha()}
    kept = sorted(words)[::2]
    vectors = KeyedVectors(12)
    vectors.add_vectors(kept, np.random.default_rng(0).normal(size=(len(kept), 12)).astype(np.float32))
    return vectors


def test_king_less_man_and_woman_is_queen(tmp_path: Path) -> None:
    words = ["<pad>", "king", "man", "woman", "queen", "apple"]
    vectors = np.array([[0, 0, 0], [5, 1, 0], [0, 1, 0], [0, 0, 2], [7, 0, 1], [-1, 1, 1]], np.float32)
    space = Space(words, vectors)
    assert "<pad>" not in space.index
    assert space.most_similar(["king", "woman"], ["man"], topn=1)[0][0] == "queen"
    assert len(space.most_similar(["king"])) == 4
    path = tmp_path / "questions.txt"
    path.write_text(": royal\nMan king Woman queen\nman king woman apple\n: gram1\nman king emperor queen\n")
    sections = analogies(space, path)
    assert sections == [Section("royal", 2, 2, 1), Section("gram1", 1, 0, 0)]
    totals = summary(sections)
    assert totals["accuracy"] == pytest.approx(1 / 3)  # an unknown word is a wrong answer
    assert totals["coverage"] == pytest.approx(2 / 3)
    assert totals["semantic"] == {"accuracy": 0.5, "coverage": 1.0, "questions": 2}
    assert totals["syntactic"] == {"accuracy": 0.0, "coverage": 0.0, "questions": 1}


def test_analogies_are_those_of_gensim(trained: KeyedVectors) -> None:
    accuracy, theirs = trained.evaluate_word_analogies(
        datapath(QUESTIONS), restrict_vocab=len(trained), case_insensitive=True, dummy4unknown=True
    )
    ours = analogies(Space(trained.index_to_key, trained.vectors), evaluation_file(QUESTIONS))
    assert [(s.name, s.correct, s.questions) for s in ours] == [
        (s["section"], len(s["correct"]), len(s["correct"]) + len(s["incorrect"])) for s in theirs[:-1]
    ]
    assert summary(ours)["accuracy"] == pytest.approx(accuracy)
    assert summary(ours)["questions"] == 19544


@pytest.mark.parametrize(("name", "size"), [("wordsim353", 353), ("simlex999", 999)])
def test_agreement_is_that_of_gensim(trained: KeyedVectors, name: str, size: int) -> None:
    ours = agreement(Space(trained.index_to_key, trained.vectors), evaluation_file(PAIRS[name]))
    _, spearman, unknown = trained.evaluate_word_pairs(datapath(PAIRS[name]), case_insensitive=True)
    assert ours.pairs == size
    assert ours.spearman == pytest.approx(spearman[0], abs=1e-6)
    assert ours.known == round(size * (1 - unknown / 100))


def test_agreement_of_a_worked_case(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("# Word 1\tWord 2\tHuman\nA\tb\t9\na\tc\t5\na\td\t1\na\tunknown\t3\n")
    vectors = np.array([[1, 0], [1, 0.1], [1, 1], [0, 1]], np.float32)
    assert agreement(Space("abcd", vectors), path) == Agreement(1.0, 4, 3)
    assert agreement(Space("abcd", vectors[[0, 3, 2, 1]]), path).spearman == pytest.approx(-1.0)
    assert agreement(Space("ab", vectors[:2]), path) == Agreement(0.0, 4, 1)


def test_every_measure_is_in_the_evaluation(trained: KeyedVectors) -> None:
    scores = evaluate(trained.index_to_key, trained.vectors)
    assert set(scores) == {"analogies", "wordsim353", "simlex999"}


def test_the_sets_beside_the_corpora_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluation_file(QUESTIONS) == Path(datapath(QUESTIONS))
    monkeypatch.setenv("VOISIN_DATA", str(tmp_path))
    assert evaluation_file(QUESTIONS) == Path(datapath(QUESTIONS))
    (tmp_path / "eval_public").mkdir()
    (tmp_path / "eval_public" / QUESTIONS).write_text(": one\na b a b\n")
    assert evaluation_file(QUESTIONS) == tmp_path / "eval_public" / QUESTIONS


def test_a_damaged_set_is_placed(tmp_path: Path) -> None:
    space = Space("ab", np.eye(2, dtype=np.float32))
    path = tmp_path / "set.gz"
    path.write_bytes(gzip.compress(b"a\tb\tmany\n"))
    with pytest.raises(CorpusError, match=r"set\.gz:1: expected two words and a number"):
        agreement(space, path)
    path.write_bytes(gzip.compress(b": one\na b a b\na b c\n"))
    with pytest.raises(CorpusError, match=r"set\.gz:3: expected four words"):
        analogies(space, path)


def test_every_two_pairs_of_a_section_are_a_question(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(": one\nroi reine\nhomme femme\nfille femme\n: two\na b c d\n", encoding="utf-8")
    space = Space(["roi"], np.ones((1, 2), np.float32))
    found = analogies(space, path)
    # `homme femme` with `fille femme` would ask for a word of the question itself
    assert [(section.name, section.questions) for section in found] == [("one", 4), ("two", 1)]
