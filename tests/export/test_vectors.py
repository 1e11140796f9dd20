"""The graph of word vectors answers as gensim does, alone and in any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from gensim.models import KeyedVectors
from onnx import numpy_helper

from bundle.manifest import Precision
from bundle.session import Session
from export.vectors import GRAPH, lower_vectors, quantized_rows, unit_rows

VOCAB, HIDDEN, SPECIALS = 3000, 40, 4
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def vectors() -> Array:
    """Rows in clusters, so that a word has neighbours worth the name; the first four are special tokens."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(100, HIDDEN))
    rows = centres[draw.integers(100, size=VOCAB)] + 0.7 * draw.normal(size=(VOCAB, HIDDEN))
    rows *= draw.uniform(0.1, 5.0, size=(VOCAB, 1))
    rows[:SPECIALS] = 0.0
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def reference(vectors: Array) -> KeyedVectors:
    keyed = KeyedVectors(HIDDEN)
    keyed.add_vectors([str(row) for row in range(SPECIALS, VOCAB)], vectors[SPECIALS:])
    return keyed


@pytest.fixture(scope="module")
def sessions(vectors: Array, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    folder = tmp_path_factory.mktemp("graphs")
    out = {}
    for precision in PRECISIONS:
        path = folder / f"{precision}.onnx"
        onnx.save(lower_vectors(vectors, precision)[GRAPH], path)
        out[precision] = Session(path)
    return out


def ask(
    session: Session, queries: list[list[tuple[int, float]]], topn: int
) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Queries of any length as one right-padded batch."""
    terms = max(len(query) for query in queries)
    ids = np.zeros((len(queries), terms), np.int64)
    weights = np.zeros((len(queries), terms), np.float32)
    for row, query in enumerate(queries):
        for place, (id, weight) in enumerate(query):
            ids[row, place], weights[row, place] = id, weight
    feeds = {"ids": ids, "weights": weights, "topn": np.array([topn])}
    query, scores, neighbours = session.run(feeds, ["query", "scores", "neighbours"])
    return query, scores, neighbours


def questions(count: int, seed: int = 1) -> list[list[tuple[int, float]]]:
    """Single words and analogies in turn."""
    draw = np.random.default_rng(seed)
    out = []
    for number in range(count):
        a, b, c = (int(id) for id in draw.choice(np.arange(SPECIALS, VOCAB), 3, replace=False))
        out.append([(a, 1.0)] if number % 2 else [(a, 1.0), (b, -1.0), (c, 1.0)])
    return out


def answers(
    session: Session, asked: list[list[tuple[int, float]]], topn: int
) -> list[list[tuple[int, float]]]:
    """What a reader makes of the graph: the query's own words removed."""
    _, scores, neighbours = ask(session, asked, topn + 3)
    out = []
    for query, cosines, ids in zip(asked, scores, neighbours, strict=True):
        own = {id for id, _ in query}
        near = [(int(id), float(cosine)) for id, cosine in zip(ids, cosines, strict=True) if id not in own]
        out.append(near[:topn])
    return out


def gensims(reference: KeyedVectors, query: list[tuple[int, float]], topn: int) -> list[tuple[int, float]]:
    positive = [str(id) for id, weight in query if weight > 0]
    negative = [str(id) for id, weight in query if weight < 0]
    found = reference.most_similar(positive=positive, negative=negative, topn=topn)
    return [(int(word), float(score)) for word, score in found]


def test_rankings_are_those_of_gensim(sessions: dict[str, Session], reference: KeyedVectors) -> None:
    asked = questions(200)
    for query, ours in zip(asked, answers(sessions["fp32"], asked, 10), strict=True):
        theirs = gensims(reference, query, 10)
        assert [id for id, _ in ours] == [id for id, _ in theirs]
        np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-5)


@pytest.mark.parametrize(("precision", "overlap", "error"), [("fp16", 0.995, 1e-3), ("int8", 0.95, 0.01)])
def test_fewer_bits_keep_the_neighbours(
    sessions: dict[str, Session], reference: KeyedVectors, precision: str, overlap: float, error: float
) -> None:
    asked = questions(200)
    shared = []
    for query, ours in zip(asked, answers(sessions[precision], asked, 10), strict=True):
        theirs = dict(gensims(reference, query, VOCAB))
        best = list(theirs)[:10]
        shared.append(len({id for id, _ in ours} & set(best)) / 10)
        assert max(abs(score - theirs[id]) for id, score in ours) < error
    assert np.mean(shared) >= overlap


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [2, 3, 8, 33])
def test_a_row_is_the_same_alone_and_in_a_batch(
    sessions: dict[str, Session], precision: str, size: int
) -> None:
    asked = questions(size, seed=size)
    together = ask(sessions[precision], asked, 10)
    for row, query in enumerate(asked):
        for whole, alone in zip(together, ask(sessions[precision], [query], 10), strict=True):
            np.testing.assert_array_equal(whole[row], alone[0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_padding_and_specials_are_nothing(sessions: dict[str, Session], precision: str) -> None:
    session = sessions[precision]
    plain = ask(session, [[(10, 1.0), (20, -1.0)]], VOCAB)
    padded = ask(session, [[(10, 1.0), (20, -1.0), (0, 0.0), (77, 0.0), (2, 1.0)]], VOCAB)
    for one, two in zip(plain, padded, strict=True):
        np.testing.assert_array_equal(one, two)
    assert set(plain[2][0, -SPECIALS:].tolist()) == set(range(SPECIALS))  # they rank last
    assert np.linalg.norm(plain[0]) == pytest.approx(1.0, abs=1e-6)
    nothing = ask(session, [[(0, 1.0)], [(9, 1.0), (9, -1.0)]], 5)
    assert not nothing[0].any()
    assert np.isfinite(nothing[1]).all()


def test_a_word_is_its_own_nearest(sessions: dict[str, Session], vectors: Array) -> None:
    for session in sessions.values():
        query, scores, neighbours = ask(session, [[(id, 1.0)] for id in range(SPECIALS, 104)], 1)
        assert neighbours[:, 0].tolist() == list(range(SPECIALS, 104))
        np.testing.assert_allclose(scores[:, 0], 1.0, atol=3e-4)  # fp16 rows are not quite of length 1
    np.testing.assert_allclose(query, unit_rows(vectors)[SPECIALS:104], atol=0.02)  # int8, the last


def test_more_than_there_are_is_all_there_are(sessions: dict[str, Session]) -> None:
    _, scores, neighbours = ask(sessions["fp32"], [[(9, 1.0)]], VOCAB + 1000)
    assert sorted(neighbours[0].tolist()) == list(range(VOCAB))
    assert (np.diff(scores[0]) <= 0).all()


def test_the_border_is_that_of_the_contract(sessions: dict[str, Session]) -> None:
    for session in sessions.values():
        border = {
            name: (spec.dtype, spec.axes) for name, spec in {**session.inputs, **session.outputs}.items()
        }
        assert border == {
            "ids": ("int64", ("batch", "terms")),
            "weights": ("float32", ("batch", "terms")),
            "topn": ("int64", (1,)),
            "query": ("float32", ("batch", HIDDEN)),
            "scores": ("float32", ("batch", "topn")),
            "neighbours": ("int64", ("batch", "topn")),
        }


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_the_table_is_stored_once(vectors: Array, precision: Precision, width: int) -> None:
    model = lower_vectors(vectors, precision)[GRAPH]
    tables = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) == VOCAB * HIDDEN]
    assert [numpy_helper.to_array(tensor).itemsize for tensor in tables] == [width]
    assert model.ByteSize() < VOCAB * (HIDDEN * width + 8) + 3000
    assert lower_vectors(vectors, precision)[GRAPH].SerializeToString(deterministic=True) == (
        model.SerializeToString(deterministic=True)
    )


def test_int8_rows_keep_their_length_and_direction(vectors: Array) -> None:
    whole, scales = quantized_rows(unit_rows(vectors))
    assert np.abs(whole[SPECIALS:]).max(1).tolist() == [127] * (VOCAB - SPECIALS)
    assert not whole[:SPECIALS].any()
    rows = whole * scales[:, None]
    np.testing.assert_allclose(np.linalg.norm(rows[SPECIALS:], axis=1), 1.0, atol=1e-6)
    assert (rows * unit_rows(vectors)).sum(1)[SPECIALS:].min() > 0.9999


@pytest.mark.parametrize(
    "wrong", [np.zeros(3), np.zeros((0, 4)), np.full((2, 2), np.nan)], ids=["shape", "empty", "nan"]
)
def test_what_is_no_table_is_refused(wrong: Array) -> None:
    with pytest.raises(ValueError, match="matrix of finite numbers"):
        lower_vectors(wrong)


def test_a_run_folder_becomes_a_graph(tmp_path: Path) -> None:
    path = tmp_path / GRAPH
    onnx.save(lower_vectors(np.eye(3, dtype=np.float32), "int8")[GRAPH], path)
    _, scores, neighbours = ask(Session(path), [[(1, 1.0), (2, 1.0)]], 3)
    assert neighbours[0].tolist() == [1, 2, 0]
    np.testing.assert_allclose(scores[0], [2**-0.5, 2**-0.5, 0.0], atol=1e-6)
