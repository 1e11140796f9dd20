"""Nearest words against plain numpy, and what is said of words that are not there."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest

from bundle.errors import InvalidRequest, UnknownWord
from bundle.spelling import Spelling
from bundle.vectors import Vectors


@pytest.fixture
def vectors(opened: dict[str, Any]) -> Vectors:
    found = opened["words"]
    assert isinstance(found, Vectors)
    return found


def _table(vectors: Vectors) -> tuple[list[str], np.ndarray]:
    words = [word for word in vectors.tokenizer.words() if word in vectors]
    return words, vectors.embed(words)


@pytest.mark.parametrize(
    ("positive", "negative"),
    [(["rome"], []), (["king", "woman"], ["man"]), (["apple", "pear", "apple"], []), ([], ["rome"])],
)
def test_neighbours_are_numpys(vectors: Vectors, positive: list[str], negative: list[str]) -> None:
    words, table = _table(vectors)
    place = {word: row for row, word in enumerate(words)}
    query = sum(table[place[word]] for word in positive) - sum(table[place[word]] for word in negative)
    cosines = table @ query / np.linalg.norm(query)
    order = [words[row] for row in np.argsort(-cosines) if words[row] not in (*positive, *negative)]
    for topn in (1, 5, len(words), 1000):
        found = vectors.most_similar(positive, negative, topn)
        assert [word for word, _ in found] == order[:topn]
        assert [score for _, score in found] == pytest.approx(
            [cosines[place[w]] for w in order[:topn]], abs=1e-5
        )
    assert "<pad>" not in order


def test_the_queen_is_found(vectors: Vectors) -> None:
    assert vectors.most_similar(["king", "woman"], ["man"], topn=1)[0][0] == "queen"


def test_embeddings_are_unit_vectors_in_any_number(vectors: Vectors) -> None:
    words = [word for word in vectors.tokenizer.words() if word in vectors] * 9
    many = vectors.embed(words)
    assert many.shape == (len(words), 16)
    assert many.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors.embed(["rome"])[0], many[words.index("rome")], atol=1e-6)
    assert vectors.embed([]).shape == (0, 16)


def test_words_are_spelt_as_people_do(vectors: Vectors) -> None:
    for spelt, word in {
        "Rome": "rome", "  ROME ": "rome", "New York": "new_york", "new_york": "new_york",
        "e\u0301te\u0301": "été", "ÉCOLE": "école", "l’hôtel": "l'hôtel",
    }.items():  # fmt: skip
        assert vectors.lookup(spelt) == vectors.tokenizer.id_of(word)
        assert spelt in vectors
    for absent in ("", " ", "<pad>", "<eos>", "atlantis", "\ud83d"):
        assert absent not in vectors


def test_unknown_words(vectors: Vectors) -> None:
    with pytest.raises(UnknownWord) as caught:
        vectors.most_similar(["Rme"])
    assert caught.value.word == "Rme"
    assert caught.value.did_you_mean[0] == "rome"
    assert vectors.did_you_mean("ecole")[0] == "école"
    assert vectors.did_you_mean("new yorc")[0] == "new_york"
    assert vectors.did_you_mean("qqqqqqqqqqqq") == []
    assert vectors.did_you_mean("<pad>") == []
    with pytest.raises(InvalidRequest, match="surrogate"):
        vectors.lookup("\ud83d")


@pytest.mark.parametrize(
    ("positive", "negative", "topn", "field"),
    [
        ([], [], 5, "positive"),
        ([""], [], 5, "word"),
        (["rome"], [], 0, "topn"),
        (["rome"], ["rome"], 5, "negative"),
    ],
)
def test_questions_that_make_no_sense(
    vectors: Vectors, positive: list[str], negative: list[str], topn: int, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        vectors.most_similar(positive, negative, topn)
    assert caught.value.field == field


def test_a_large_vocabulary_is_searched() -> None:
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkqjxzéèà"
    words = ["".join(rng.choice(letters) for _ in range(rng.randint(3, 12))) for _ in range(50_000)]
    words[30_000] = "bibliothèque"
    assert Spelling(words).nearest("bibliotheqe")[0] == "bibliothèque"


def test_threads_may_ask_at_once(vectors: Vectors) -> None:
    words, _ = _table(vectors)
    expected = {word: vectors.most_similar([word]) for word in words}
    wrong: list[str] = []

    def ask(some: list[str]) -> None:
        wrong.extend(word for word in some * 5 if vectors.most_similar([word]) != expected[word])

    threads = [threading.Thread(target=ask, args=(words[start:],)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
