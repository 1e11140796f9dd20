"""Words never seen are answered as gensim's FastText answers them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from gensim.models import FastText
from msgspec import UNSET

from bundle.errors import BundleError, InvalidRequest, UnknownWord, VoisinError
from bundle.load import open_bundle
from bundle.manifest import Precision, Subwords, compute_revision, encode, read_manifest
from bundle.stored import read_stored
from bundle.vectors import Vectors
from export import ExportError
from export.pipeline import export_run
from export.vectors import GRAPH
from export.verify import require
from export.verify_vectors import same_ranking, verify_vectors
from tests.export.fasttext import ENDINGS, STEMS, train
from training.word2vec import load_ngrams, load_run

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
UNSEEN = [
    "chanteresse",
    "reparler",
    "marchandise",
    "dansotter",
    "étudiâmes",
    "porteé",
    "zzz",
    "o",
    "à l'aube",
]


@dataclass
class Trained:
    model: FastText
    run: Path
    folders: dict[str, Path] = field(default_factory=dict)

    def opened(self, precision: str) -> Vectors:
        model = open_bundle(self.folders[precision])
        assert isinstance(model, Vectors)
        return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("fasttext")
    trained = Trained(train(folder / "run"), folder / "run")
    for precision in PRECISIONS:
        trained.folders[precision] = folder / precision
        export_run(trained.run, folder / precision, precision=precision)
    return trained


def spelt(word: str) -> str:
    return word.replace(" ", "_")


def made_up(count: int) -> list[str]:
    draw = random.Random(3)
    words = [
        draw.choice(["re", "dé", ""]) + draw.choice(STEMS) + draw.choice(ENDINGS) * 2 for _ in range(count)
    ]
    return [*UNSEEN, *dict.fromkeys(words)]


def test_vectors_are_gensims(trained: Trained) -> None:
    words = [word for word in made_up(100) if spelt(word) not in trained.model.wv.key_to_index]
    assert len(words) > 60
    want = np.stack([trained.model.wv[spelt(word)] for word in words])
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    for precision, least in (("fp32", 1 - 1e-6), ("fp16", 1 - 1e-5), ("int8", 0.999)):
        model = trained.opened(precision)
        assert not any(word in model for word in words)
        assert all(model.composes(word) for word in words)
        got = model.embed(words)
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
        assert (got * want).sum(1).min() > least
    np.testing.assert_allclose(trained.opened("fp32").embed(words), want, atol=1e-6)


def test_neighbours_are_gensims(trained: Trained) -> None:
    model, theirs = trained.opened("fp32"), trained.model.wv
    for word in made_up(60):
        want = theirs.most_similar(spelt(word), topn=10)
        got = model.most_similar([word], topn=10)
        assert same_ranking(got, want, 1e-5), word
        assert [score for _, score in got] == pytest.approx([score for _, score in want], abs=1e-5)
    for positive, negative in ((["rechanter", "danser"], ["chanter"]), (["danser"], ["redanseur", "zzz"])):
        want = theirs.most_similar(positive=positive, negative=negative)
        assert same_ranking(model.most_similar(positive, negative), want, 1e-5)
    assert {word for word, _ in model.most_similar(["rechanter"], topn=5)} <= {"chant" + e for e in ENDINGS}


def test_known_words_are_what_they_would_be_without(trained: Trained) -> None:
    model, theirs = trained.opened("fp32"), trained.model.wv
    for word in theirs.index_to_key[:40]:
        assert word in model
        assert not model.composes(word)
        assert same_ranking(model.most_similar([word]), theirs.most_similar(word), 1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_export_proved_it(trained: Trained, precision: str) -> None:
    manifest = trained.opened(precision).manifest
    assert manifest.format == 2
    assert manifest.subwords == Subwords(min_n=2, max_n=5, bucket=2000)
    require(manifest.parity)
    assert any(golden.input[0] not in trained.model.wv.key_to_index for golden in manifest.golden)
    words, matrix, _ = load_run(trained.run)
    ngrams = load_ngrams(trained.run)
    assert ngrams is not None
    assert manifest.provenance.parameters == (len(words) - 4 + 2000) * 16
    spoiled = ngrams.copy()
    spoiled[:, 0] += np.abs(ngrams).max()
    with pytest.raises(ExportError, match="cosines_vs_gensim"):
        require(verify_vectors(trained.opened(precision), words, matrix, precision, ngrams=spoiled))
    with pytest.raises(ExportError, match="do not agree"):
        verify_vectors(trained.opened(precision), words, matrix, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_is_the_same_alone_and_in_a_batch(trained: Trained, precision: str) -> None:
    model = trained.opened(precision)
    words = ["chanter", *made_up(120), "un" + "chanter" * 8]
    together = model.embed(words)
    for row, word in enumerate(words):
        np.testing.assert_array_equal(together[row], model.embed([word])[0])


def test_spellings_of_one_word_are_one(trained: Trained) -> None:
    model = trained.opened("fp32")
    assert model.key("  REChanter ") == model.key("rechanter") == "rechanter"
    assert model.most_similar(["À L’aube"]) == model.most_similar(["à_l'aube"])
    assert isinstance(model.key("CHANTER"), int)
    with pytest.raises(InvalidRequest, match="cancels"):
        model.most_similar(["rechanter"], ["Rechanter"])


def test_what_is_no_word_is_not_composed(trained: Trained) -> None:
    model = trained.opened("fp32")
    for word in ("123", "?!", "_", "x" * 65):
        assert not model.composes(word)
        with pytest.raises(UnknownWord):
            model.most_similar([word])
    for word in ("", " ", "\ud83d"):
        assert not model.composes(word)
        with pytest.raises(InvalidRequest):
            model.embed([word])


def test_the_table_of_ngrams_is_stored_as_small_as_it_may_be(trained: Trained) -> None:
    sizes = {name: (folder / "vectors.onnx").stat().st_size for name, folder in trained.folders.items()}
    rows = 2001 + len(trained.model.wv) + 4
    for precision, width in (("fp32", 64), ("fp16", 32), ("int8", 20)):
        assert rows * width < sizes[precision] < rows * width + 5000


def test_kept_words_leave_the_others_to_their_ngrams(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for path in trained.run.iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    recipe = (run / "recipe.toml").read_text(encoding="utf-8")
    (run / "recipe.toml").write_text(recipe.replace("kept = 0", "kept = 40"), encoding="utf-8")
    export_run(run, tmp_path / "words", precision="int8")
    model = open_bundle(tmp_path / "words")
    assert isinstance(model, Vectors)
    left_out = trained.model.wv.index_to_key[60]
    assert left_out not in model
    assert model.composes(left_out)
    assert left_out not in {word for word, _ in model.most_similar([left_out], topn=100)}


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda plain: plain.update(format=1), "says what format 1 has no word for"),
        (lambda plain: plain.pop("subwords"), "either the graph or the manifest has subwords"),
        (lambda plain: plain["subwords"].update(min_n=6), "makes no sense"),
        (lambda plain: plain["subwords"].update(bucket=0), "makes no sense"),
        (lambda plain: plain["subwords"].update(bucket=1999), "golden input"),
        (lambda plain: plain["subwords"].update(surprise=1), "unknown field `surprise`"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(
    trained: Trained, tmp_path: Path, change: Change, reason: str
) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    for path in trained.folders["fp32"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    plain = json.loads((folder / "manifest.json").read_bytes())
    change(plain)
    (folder / "manifest.json").write_text(json.dumps(plain), encoding="utf-8")
    before = read_manifest(trained.folders["fp32"])
    subwords = plain.get("subwords", UNSET)
    if subwords is not UNSET and "surprise" not in subwords:
        subwords = msgspec.convert(subwords, Subwords)
    if not (isinstance(subwords, dict)):
        revision = compute_revision(msgspec.structs.replace(before, subwords=subwords))
        plain["revision"] = revision
        (folder / "manifest.json").write_text(json.dumps(plain), encoding="utf-8")
        assert (revision == before.revision) == (subwords == before.subwords)
    with pytest.raises(BundleError, match=reason):
        open_bundle(folder)


def test_without_subwords_nothing_changes(vectors_run: Path, tmp_path: Path) -> None:
    manifest = export_run(vectors_run, tmp_path / "words").manifest
    assert manifest.format == 1
    assert b"subwords" not in encode(manifest).replace(b"subwords = false", b"")
    model = open_bundle(tmp_path / "words")
    assert isinstance(model, Vectors)
    assert "ngrams" not in read_stored(tmp_path / "words" / GRAPH).inputs
    assert not model.composes("unheard")
    with pytest.raises(UnknownWord):
        model.most_similar(["unheard"])


def test_a_run_without_its_ngrams_is_refused(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for path in trained.run.iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    np.save(run / "ngrams.npy", np.zeros((3, 16), np.float32))
    with pytest.raises(VoisinError, match=r"ngrams\.npy: shape \(3, 16\), not \(2000, 16\)"):
        load_ngrams(run)
    (run / "ngrams.npy").unlink()
    with pytest.raises(VoisinError, match=r"ngrams\.npy.*train again"):
        export_run(run, tmp_path / "words")
    assert not (tmp_path / "words").exists()
