"""Staging, replacing and recording: a bundle appears whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle.manifest import MANIFEST
from export import ExportError, pack


def put_bundle(folder: Path, text: str = "old") -> None:
    folder.mkdir()
    (folder / MANIFEST).write_text(text)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def fail(target: Path, *, force: bool) -> None:
    with pack.staged(target, force=force) as folder:
        (folder / "file").write_text("new")
        raise RuntimeError("half way")


def graph(opset: int = 21, values: int = 4) -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.arange(values, dtype=np.float32), "weights")
    node = helper.make_node("Add", ["x", "weights"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", values]) for name in "xy")
    made = helper.make_graph([node], "sum", [x], [y], initializer=[weights])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_a_staged_folder_takes_its_place(tmp_path: Path) -> None:
    with pack.staged(tmp_path / "deep" / "words-en") as folder:
        (folder / "file").write_text("new")
        assert not (tmp_path / "deep" / "words-en").exists()
    assert (tmp_path / "deep" / "words-en" / "file").read_text() == "new"
    assert leftovers(tmp_path / "deep") == []
    assert (tmp_path / "deep" / "words-en").stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"):
        fail(tmp_path / "words-en", force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_bundle_that_was_there(tmp_path: Path) -> None:
    put_bundle(tmp_path / "words-en")
    with pytest.raises(RuntimeError, match="half way"):
        fail(tmp_path / "words-en", force=True)
    assert (tmp_path / "words-en" / MANIFEST).read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_failed_rename_puts_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_bundle(tmp_path / "words-en")
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if (self / "file").exists():
            raise OSError("no space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space"), pack.staged(tmp_path / "words-en", force=True) as folder:
        (folder / "file").write_text("new")
    assert (tmp_path / "words-en" / MANIFEST).read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_bundle_is_replaced_only_by_force(tmp_path: Path) -> None:
    put_bundle(tmp_path / "words-en")
    with pytest.raises(ExportError, match="--force replaces it"), pack.staged(tmp_path / "words-en"):
        pass
    with pack.staged(tmp_path / "words-en", force=True) as folder:
        (folder / MANIFEST).write_text("new")
    assert (tmp_path / "words-en" / MANIFEST).read_text() == "new"
    assert leftovers(tmp_path) == []


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "note").write_text("a file")
    for name in ("thesis", "note"):
        with (
            pytest.raises(ExportError, match="is not a bundle"),
            pack.staged(tmp_path / name, force=True),
        ):
            pass
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_graphs_are_written_the_same_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert pack.write_graphs(tmp_path / name, {"model.onnx": graph()}) == 21
    assert pack.records(tmp_path / "one") == pack.records(tmp_path / "two")


def test_graphs_of_a_bundle_share_an_opset(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"one opset, not \[20, 21\]"):
        pack.write_graphs(tmp_path, {"encoder.onnx": graph(20), "decoder.onnx": graph(21)})


def test_weights_beyond_protobuf_are_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "_PROTOBUF_LIMIT", 1000)
    pack.write_graphs(tmp_path, {"model.onnx": graph(values=1024)})
    assert (tmp_path / "model.onnx").stat().st_size < 1000
    assert set(pack.records(tmp_path)) == {"model.onnx", "model.onnx.data"}
    read = onnx.load(tmp_path / "model.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[0]), np.arange(1024))


def test_records_leave_out_what_may_be_mended(tmp_path: Path) -> None:
    for name in ("model.onnx", "manifest.json", "scores.json", "CARD.md"):
        (tmp_path / name).write_bytes(b"abc")
    recorded = pack.records(tmp_path)
    assert set(recorded) == {"model.onnx"}
    assert recorded["model.onnx"].size == 3
    assert recorded["model.onnx"].sha256.startswith("ba7816bf8f01cfea")  # FIPS 180-2, "abc"


def test_scores_survive_a_crash_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack.write_scores(tmp_path, {"scores": [1]})

    def crash(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        pack.write_scores(tmp_path, {"scores": [2]})
    assert pack.read_scores(tmp_path) == {"scores": [1]}
    assert leftovers(tmp_path) == []
    assert pack.read_scores(tmp_path / "elsewhere") == {}


def test_foreign_scores_are_refused_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text("[1")
    with pytest.raises(ExportError, match=r"scores\.json: "):
        pack.read_scores(tmp_path)


def test_corpora_are_required(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"corpora\.json: No such file"):
        pack.read_corpora(tmp_path)
    (tmp_path / "corpora.json").write_text('[{"name": "x"}]')
    with pytest.raises(ExportError, match=r"corpora\.json: .*licence"):
        pack.read_corpora(tmp_path)


def test_provenance_names_versions() -> None:
    made = pack.provenance(recipe="", corpora=[], opset=21, parameters=3)
    assert made.libraries["onnx"] == onnx.__version__
    assert made.created.endswith("Z")
    assert len(made.created) == len("2025-01-01T00:00:00Z")
