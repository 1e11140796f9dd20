"""What keeps a bundle small: weights stored once, tokenizers without blanks, rare words left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle.session import Session
from export import ExportError
from export.pack import SHARED, records, write_graphs
from export.pipeline import write_tokenizer


def graph(weight: np.ndarray) -> onnx.ModelProto:
    """`y = x W`."""
    width = weight.shape[1]
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_equal_weights_of_two_graphs_stand_once_and_give_the_same_answers(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    both, own = rng.normal(size=(2, 64, 32)).astype(np.float32)
    write_graphs(tmp_path, {"a.onnx": graph(both), "b.onnx": graph(both.copy()), "c.onnx": graph(own)})
    assert (tmp_path / SHARED).stat().st_size == both.nbytes
    assert SHARED in records(tmp_path)
    assert max((tmp_path / name).stat().st_size for name in ("a.onnx", "b.onnx")) < both.nbytes
    x = rng.normal(size=(3, 64)).astype(np.float32)
    for name, weight in (("a.onnx", both), ("b.onnx", both), ("c.onnx", own)):
        (y,) = Session(tmp_path / name).run({"x": x}, ["y"])
        np.testing.assert_allclose(y, x @ weight, atol=1e-4)


def test_different_weights_share_no_file(tmp_path: Path) -> None:
    one, other = np.random.default_rng(2).normal(size=(2, 64, 32)).astype(np.float32)
    write_graphs(tmp_path, {"a.onnx": graph(one), "b.onnx": graph(other)})
    assert not (tmp_path / SHARED).exists()


def test_a_tokenizer_keeps_its_first_ids(tmp_path: Path) -> None:
    plain = {"model": {"type": "WordLevel", "vocab": {"<pad>": 0, "the": 1, "rare": 2}, "unk_token": "<unk>"}}
    source = tmp_path / "tokenizer.json"
    source.write_text(json.dumps(plain, indent=2), encoding="utf-8")
    write_tokenizer(source, tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text()) == plain
    assert (tmp_path / "all.json").stat().st_size < source.stat().st_size
    write_tokenizer(source, tmp_path / "two.json", kept=2)
    assert json.loads((tmp_path / "two.json").read_text())["model"]["vocab"] == {"<pad>": 0, "the": 1}


def test_a_tokenizer_that_is_no_json_is_named(tmp_path: Path) -> None:
    source = tmp_path / "tokenizer.json"
    source.write_text("{", encoding="utf-8")
    with pytest.raises(ExportError, match=r"tokenizer\.json"):
        write_tokenizer(source, tmp_path / "copy.json")
