"""Relations between words are gensim's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from gensim.models import KeyedVectors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundle.errors import InvalidRequest, UnknownWord
from bundle.relations import centrality, most_similar_by_product, rank, similarity
from bundle.vectors import Vectors
from bundle.vocabulary import Vocabulary
from tests.bundle.wordy import draw, gensim_of, make_words, opened, spell

WORDS = spell(400)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    folder = tmp_path_factory.mktemp(request.param) / "words"
    # equal vectors would leave it to the last bit which of two words is nearer
    rows = draw(400, 20)
    rows += np.random.default_rng(9).normal(size=rows.shape).astype(np.float32) * 0.05
    return opened(make_words(folder, WORDS, rows, precision=request.param))


@pytest.fixture(scope="module")
def keyed(model: Vectors) -> KeyedVectors:
    return gensim_of(model)


words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)
unhurried = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@unhurried
@given(words, words)
def test_similarity(model: Vectors, keyed: KeyedVectors, one: list[str], other: list[str]) -> None:
    assert similarity(model, one, other) == pytest.approx(keyed.n_similarity(one, other), abs=1e-6)
    assert similarity(model, one[:1], other[:1]) == pytest.approx(
        keyed.similarity(one[0], other[0]), abs=1e-6
    )


@unhurried
@given(words)
def test_the_odd_one_out(model: Vectors, keyed: KeyedVectors, some: list[str]) -> None:
    found, want = centrality(model, some), keyed.rank_by_centrality(some)
    assert [score for _, score in found] == pytest.approx([score for score, _ in want], abs=1e-6)
    clear = len(want) == 1 or want[-2][0] - want[-1][0] > 1e-5
    assert found[-1][0] == keyed.doesnt_match(some) or not clear


@unhurried
@given(st.sampled_from(WORDS), st.sampled_from(WORDS))
def test_rank(model: Vectors, keyed: KeyedVectors, word: str, other: str) -> None:
    place, score = rank(model, word, other)
    assert score == pytest.approx(keyed.similarity(word, other), abs=1e-6)
    if word == other:
        assert place == 1
        return
    assert place == keyed.rank(word, other)
    assert model.most_similar([word], topn=place)[-1] == (other, score)


@unhurried
@given(words, words, st.integers(1, 30), st.sampled_from([0, 3, 100, 399, 5000]))
def test_analogies_by_multiplication(
    model: Vectors, keyed: KeyedVectors, positive: list[str], negative: list[str], topn: int, among: int
) -> None:
    found = most_similar_by_product(model, positive, negative, topn, among=among)
    # gensim's restrict_vocab says what it ought to do, and is not read
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own init_sims
        everything = keyed.most_similar_cosmul(positive, negative, topn=len(WORDS))
    first = set(WORDS[:among] if among else WORDS)
    want = [(word, score) for word, score in everything if word in first][:topn]
    assert [score for _, score in found] == pytest.approx([score for _, score in want], rel=2e-5)
    clear = [a for (a, x), (_, y) in pairwise(want) if x - y > 1e-4 * x]
    assert set(clear) <= {word for word, _ in found}


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda model: similarity(model, [], ["ax0"]), "one"),
        (lambda model: similarity(model, ["ax0"], []), "other"),
        (lambda model: centrality(model, []), "words"),
        (lambda model: most_similar_by_product(model, [], ["ax0"]), "positive"),
        (lambda model: most_similar_by_product(model, ["ax0"], [], 0), "topn"),
    ],
)
def test_questions_that_make_no_sense(model: Vectors, ask: Callable[[Vectors], Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(model)
    assert caught.value.field == field


def test_unknown_words_are_named(model: Vectors) -> None:
    for ask in (
        lambda: similarity(model, ["ax0", "by1"], ["ax"]),
        lambda: centrality(model, ["ax0", "ax"]),
        lambda: rank(model, "ax0", "ax"),
        lambda: rank(model, "ax", "ax0"),
        lambda: most_similar_by_product(model, ["ax0"], ["ax"]),
    ):
        with pytest.raises(UnknownWord) as caught:
            ask()
        assert caught.value.word == "ax"
        assert "ax0" in caught.value.did_you_mean


@given(
    st.lists(st.text("abé_\U0010ffff", max_size=4), unique=True),
    st.text("abé", max_size=2),
    st.integers(1, 5),
)
def test_pages_of_a_vocabulary_are_all_of_it(some: list[str], prefix: str, limit: int) -> None:
    vocabulary = Vocabulary(some)
    want = sorted(word for word in some if word and word.startswith(prefix))
    found: list[str] = []
    while page := vocabulary.page(prefix, limit, after=found[-1] if found else ""):
        assert len(page) <= limit
        found += page
    assert found == want
    assert vocabulary.count(prefix) == len(want)
