"""Nearest words by a scan in place: a full search in float64, the graph, and gensim say the same."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundle.manifest import Precision
from bundle.nearest import candidates, nearest
from bundle.rows import Rows
from bundle.session import Session
from bundle.stored import read_stored
from bundle.vectors import Vectors
from export.vectors import GRAPH, lower_vectors
from tests.bundle.wordy import draw, gensim_of, make_words, opened, spell

WORDS = 900
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module", params=PRECISIONS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    folder = tmp_path_factory.mktemp(request.param) / "words"
    return opened(make_words(folder, spell(WORDS), draw(WORDS, 30), precision=request.param, width=0))


def _search(rows: Rows, vector: np.ndarray, topn: int, skip: set[int], limit: int) -> list[tuple[int, float]]:
    """Everything in float64, the plainest way."""
    cosines = (rows.unit(range(limit)).astype(np.float64) * vector).sum(1).astype(np.float32)
    order = sorted((id for id in range(limit) if id not in skip), key=lambda id: (-cosines[id], id))
    return [(id, float(cosines[id])) for id in order[:topn]]


some_words = st.lists(st.integers(4, WORDS + 3), min_size=1, max_size=4, unique=True)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some_words, some_words, st.integers(1, 40), st.sampled_from([0, 1, 7, 64, 500, 904, 10**6]))
def test_a_scan_is_a_full_search(
    model: Vectors, positive: list[int], negative: list[int], topn: int, limit: int
) -> None:
    rows = model.rows
    total = rows.unit(positive).sum(0, dtype=np.float64) - rows.unit(negative).sum(0, dtype=np.float64)
    query = rows.vector(total)
    own = set(positive) | set(negative)
    ids, cosines = nearest(rows, query, topn, skip=sorted(own), limit=limit)
    want = _search(rows, query.unit, topn, own | {0, 1, 2, 3}, min(limit, rows.size) or rows.size)
    assert ids.tolist() == [id for id, _ in want]
    assert cosines.tolist() == [cosine for _, cosine in want]


def test_a_word_is_compared_exactly(model: Vectors) -> None:
    """Also where most of the vocabulary is wanted, and where vectors are equal."""
    for id in (4, 5, 9, 14, 404, 903):
        for topn in (1, 10, 500, 2000):
            found = model.nearest_to({id: 1.0}, topn)
            want = _search(model.rows, model.rows.word(id).unit, topn, {0, 1, 2, 3, id}, model.rows.size)
            cosines = dict(found)
            assert len(found) == len(want) == min(topn, WORDS - 1)
            assert [score for _, score in found] == pytest.approx([score for _, score in want], abs=2e-7)
            assert {model.word_of(other) for other, _ in want} == set(cosines) or topn < WORDS
            places = {word: place for place, (word, _) in enumerate(found)}
            for (one, a), (other, b) in pairwise(found):
                ties = a == b and model.lookup(one) > model.lookup(other)
                assert a >= b
                assert not ties, (places[one], one, other)


def test_the_graph_ranks_the_same(model: Vectors, tmp_path: Path) -> None:
    precision = model.manifest.precision
    matrix = np.concatenate([np.zeros((4, 30), np.float32), draw(WORDS, 30)])
    path = tmp_path / GRAPH
    path.write_bytes(lower_vectors(matrix, precision)[GRAPH].SerializeToString())
    graph = Vectors(model.manifest, model.tokenizer, model.rows, graph=Session(path), provider="graph")
    words = spell(WORDS)
    queries = [([word], []) for word in words[::9]]
    queries += [([words[n], words[-n]], [words[2 * n]]) for n in range(1, 60)]
    for positive, negative in queries:
        found, want = model.most_similar(positive, negative, 12), graph.most_similar(positive, negative, 12)
        assert [score for _, score in found] == pytest.approx([score for _, score in want], abs=2e-6)
        clear = [a for (a, x), (_, y) in pairwise(want) if x - y > 1e-5]
        assert set(clear) <= {word for word, _ in found}


def test_gensim_finds_the_same(model: Vectors) -> None:
    keyed = gensim_of(model)
    words = spell(WORDS)
    # gensim divides by the length of a row, which half a float is too coarse to make 1
    bound, clearly = (1e-3, 2e-3) if model.manifest.precision == "fp16" else (2e-6, 1e-5)
    for n in range(1, 80):
        positive, negative = [words[n], words[-n]], [words[n * 5]]
        for restrict in (0, 40, 300):
            found = model.most_similar(positive, negative, 8, among=restrict)
            want = keyed.most_similar(positive, negative, topn=8, restrict_vocab=restrict or None)
            assert [score for _, score in found] == pytest.approx([score for _, score in want], abs=bound)
            clear = [a for (a, x), (_, y) in pairwise(want) if x - y > clearly]
            assert set(clear) <= {word for word, _ in found}


def test_a_larger_table_opens_in_place_and_misses_nothing(tmp_path: Path) -> None:
    size, hidden = 120_000, 48
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(size, hidden)).astype(np.float32)
    (tmp_path / GRAPH).write_bytes(lower_vectors(matrix, "int8")[GRAPH].SerializeToString())
    rows = Rows(read_stored(tmp_path / GRAPH))
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    held = rows.unit(range(size))
    recalled = 0
    for n in range(20):
        # an analogy, so that the query is no row of the table
        query = rows.vector(unit[n].astype(np.float64) + unit[n + 20] - unit[n + 40])
        ids, _ = nearest(rows, query, 10)
        cosines = held @ query.unit.astype(np.float32)
        recalled += len(set(ids.tolist()) & set(np.argsort(-cosines)[:10].tolist()))
    assert recalled == 200  # recall@10 is 1


def test_candidates_hold_all_that_an_error_may_hide() -> None:
    rng = np.random.default_rng(1)
    for size, topn, error in ((5000, 10, 0.02), (5000, 600, 1e-4), (40, 39, 0.1), (40, 90, 0.1), (1, 1, 0.5)):
        true = rng.normal(size=size).astype(np.float32)
        found = true + rng.uniform(-error, error, size).astype(np.float32)
        some = set(candidates(found, topn, error).tolist())
        assert set(np.argsort(-true)[:topn].tolist()) <= some


def test_a_graph_without_a_table_is_refused(tmp_path: Path) -> None:
    model = lower_vectors(draw(20, 8), "int8")[GRAPH]
    for name, why in (("table_int8", "holds no table"), ("scales", "no scales to go with them")):
        broken = type(model)()
        broken.CopyFrom(model)
        kept = [tensor for tensor in broken.graph.initializer if tensor.name != name]
        del broken.graph.initializer[:]
        broken.graph.initializer.extend(kept)
        (tmp_path / GRAPH).write_bytes(broken.SerializeToString())
        with pytest.raises(ValueError, match=why):
            Rows(read_stored(tmp_path / GRAPH))
