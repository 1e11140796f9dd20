"""The table of neighbours answers as a scan does, to the byte, or is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bundle.errors import BundleError
from bundle.load import open_bundle
from bundle.manifest import Precision, read_manifest
from bundle.neighbours import NEIGHBOURS, Neighbours, encode_neighbours, id_type
from bundle.rows import Rows
from bundle.stored import read_stored
from bundle.tokenizer import Tokenizer
from bundle.vectors import Vectors
from export import pack
from export.neighbours import find_neighbours
from export.vectors import GRAPH, lower_vectors
from tests.bundle.conftest import write_manifest
from tests.bundle.wordy import draw, make_words, opened, spell

SHIPPED = Path(__file__).parents[2] / "models" / "words-en"
WORDS = 700


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_word_is_looked_up_as_it_is_scanned(tmp_path: Path, precision: Precision) -> None:
    words, rows = spell(WORDS), draw(WORDS, 24)
    model = opened(make_words(tmp_path / "with", words, rows, precision=precision))
    plain = opened(make_words(tmp_path / "without", words, rows, precision=precision, width=0))
    assert model.neighbours is not None
    assert plain.neighbours is None
    assert (model.neighbours.rows, model.neighbours.width) == (WORDS + 4, 10)
    for word in words:
        for topn in (1, 4, 10):
            assert model.is_looked_up({model.key(word): 1.0}, topn)
            assert model.most_similar([word], topn=topn) == plain.most_similar([word], topn=topn)
    for positive, negative, topn in (
        ([words[0]], [], 11),
        ([words[0], words[1]], [], 5),
        ([], [words[0]], 5),
    ):
        assert model.most_similar(positive, negative, topn) == plain.most_similar(positive, negative, topn)
    assert model.most_similar([words[0]], topn=5, among=50) == plain.most_similar(
        [words[0]], topn=5, among=50
    )
    assert not model.is_looked_up({model.key(words[0]): -1.0}, 5)
    assert not model.is_looked_up({model.key(words[0]): 1.0}, 11)


def test_fewer_words_than_neighbours(tmp_path: Path) -> None:
    model = opened(make_words(tmp_path / "few", spell(5), draw(5, 8)))
    assert model.neighbours is not None
    assert model.neighbours.width == 4
    assert len(model.most_similar(["ax0"], topn=10)) == 4
    lone = opened(make_words(tmp_path / "lone", ["alone"], draw(2, 8)[1:]))
    assert lone.neighbours is None
    assert lone.most_similar(["alone"]) == []


def test_only_the_most_frequent_where_all_would_cost_too_much(tmp_path: Path) -> None:
    budget = 2.0 * 304 * 24 * 100
    model = opened(make_words(tmp_path / "words", spell(300), draw(300, 24), operations=budget))
    assert model.neighbours is not None
    assert model.neighbours.rows == 100
    assert model.is_looked_up({99: 1.0}, 10)
    assert not model.is_looked_up({100: 1.0}, 10)
    plain = Vectors(model.manifest, model.tokenizer, model.rows)
    for word in spell(300):
        assert model.most_similar([word]) == plain.most_similar([word])


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the models are not here")
def test_a_sample_of_what_ships() -> None:
    """The first words' neighbours, found as export finds them, are those of a scan."""
    rows = Rows(read_stored(SHIPPED / "vectors.onnx"))
    special = np.arange(4)
    found = find_neighbours(rows, special, count=200, width=10)
    assert np.array_equal(found[:4], np.repeat(np.arange(4)[:, None], 10, 1))
    model = Vectors(
        read_manifest(SHIPPED), Tokenizer.load(SHIPPED / "tokenizer.json"), rows
    )  # has no table: it scans
    for id in range(4, 200):
        near = [model.lookup(word) for word, _ in model.nearest_to({id: 1.0}, 10)]
        assert near == found[id].tolist()


def test_the_revision_tells_a_bundle_with_a_table_from_one_without(tmp_path: Path) -> None:
    words, rows = spell(60), draw(60, 8)
    one, other = make_words(tmp_path / "a", words, rows), make_words(tmp_path / "b", words, rows, width=0)
    assert read_manifest(one).revision != read_manifest(other).revision
    assert read_manifest(one).format == read_manifest(other).format


def test_ids_are_as_narrow_as_the_vocabulary_allows() -> None:
    assert id_type(1 << 16).itemsize == 2
    assert id_type((1 << 16) + 1).itemsize == 4


def test_wide_ids(tmp_path: Path) -> None:
    ids = np.array([[70_000, 1], [2, 69_999]])
    path = tmp_path / NEIGHBOURS
    path.write_bytes(encode_neighbours(ids, 70_001))
    table = Neighbours(path, 70_001)
    rows = np.random.default_rng(0).normal(size=(70_001, 4)).astype(np.float32)
    (tmp_path / GRAPH).write_bytes(lower_vectors(rows, "int8")[GRAPH].SerializeToString())
    held = Rows(read_stored(tmp_path / GRAPH))
    table.measure(held)
    assert table.of(0, 2) == ([70_000, 1], held.cosines(held.word(0), np.array([70_000, 1])).tolist())
    assert table.of(1, 1) == ([2], held.cosines(held.word(1), np.array([2])).tolist())
    assert table.has(1, 2)
    assert not table.has(2, 1)
    assert not table.has(1, 3)


def _replaced(raw: bytes, at: int, value: int) -> bytes:
    return raw[:at] + struct.pack("<I", value) + raw[at + 4 :]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda raw: b"", "no table of neighbours"),
        (lambda raw: raw[:20], "no table of neighbours"),
        (lambda raw: raw[:-2], "is not 64 rows of 10"),
        (lambda raw: raw + b"xx", "is not 64 rows of 10"),
        (lambda raw: b"x" + raw[1:], "that this reader knows"),
        (lambda raw: _replaced(raw, 8, 2), "that this reader knows"),
        (lambda raw: _replaced(raw, 12, 65), "is of 65 words and the tokenizer has 64"),
        (lambda raw: _replaced(raw, 16, 65), "is not 65 rows"),
        (lambda raw: raw[:-2] + b"\xff\xff", "names words that the vocabulary lacks"),
        (lambda raw: raw[:32] + raw[52:] + raw[32:52], "are not those of the vectors"),
    ],
)
def test_a_damaged_table_is_refused_at_start(
    tmp_path: Path, damage: Callable[[bytes], bytes], why: str
) -> None:
    """Even where the manifest has been made to fit."""
    folder = make_words(tmp_path / "words", spell(60), draw(60, 8))
    path = folder / NEIGHBOURS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=r"bytes and the manifest says|sha256 differs"):
        open_bundle(folder)
    manifest = read_manifest(folder)
    write_manifest(folder, msgspec.structs.replace(manifest, files=pack.records(folder)))
    with pytest.raises(BundleError, match=why) as caught:
        open_bundle(folder)
    assert caught.value.path == str(path)


def test_a_table_that_is_missing_is_refused(tmp_path: Path) -> None:
    folder = make_words(tmp_path / "words", spell(60), draw(60, 8))
    (folder / NEIGHBOURS).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(folder)
