"""What the kernels refuse, and what they leave to onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bundle import load
from bundle.errors import BundleError
from bundle.load import open_bundle, open_graph
from bundle.native import PROVIDER, graph, library, open_native
from bundle.native.library import NEEDED
from bundle.session import Place, Session
from export.lower import lower
from export.pack import write_graphs
from tests.bundle.native.small import VOCAB, feeds, opened, step_graph
from training.models import build
from training.models.config import ModelConfig


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ids", VOCAB, "no token"),
        ("ids", -1, "no token"),
        ("counts", 0, "longer than its room"),
        ("counts", 3, "longer than its room"),
        ("lengths", 7, "longer than its room"),
        ("lengths", -1, "longer than its room"),
        ("lengths", 2**31 - 1, "longer than its room"),
        ("source_counts", 5, "longer than its room"),
        ("source_counts", 0, "longer than its room"),
    ],
)
def test_numbers_that_lead_out_of_arrays_are_refused(folder: Path, name: str, value: int, said: str) -> None:
    of = opened(step_graph(folder))
    given = feeds(of)
    of.run(given, ["logits"])
    if name in given:
        given[name].reshape(-1)[-1] = value
        with pytest.raises(ValueError, match=said):
            of.run(given, ["logits"])


def test_an_encoder_refuses_what_is_no_token(folder: Path) -> None:
    if not (folder / "encoder.onnx").exists():
        return
    of = opened(folder / "encoder.onnx")
    given = {"ids": np.full((2, 4), 5), "counts": np.array([4, 2], np.int32)}
    names = list(of.outputs)
    of.run(given, names)
    for fault in ({"ids": np.full((2, 4), VOCAB)}, {"counts": np.array([5, 2], np.int32)}):
        with pytest.raises(ValueError, match=r"no token|longer"):
            of.run({**given, **fault}, names)


@pytest.mark.parametrize("name", ["past.1.value", "lengths", "memory.1.key", "picks"])
def test_arrays_that_do_not_fit_each_other_are_refused(folder: Path, name: str) -> None:
    of = opened(step_graph(folder))
    given = feeds(of)
    if name not in given:
        return
    for axis in (0, -1) if name != "picks" else (0,):  # two picks a row are as good as one
        with pytest.raises(ValueError, match="is needed"):
            of.run({**given, name: np.concatenate([given[name]] * 2, axis=axis)}, ["logits"])


def test_a_past_that_is_to_be_written_elsewhere_is_not_bound(folder: Path) -> None:
    of = opened(step_graph(folder))
    given = feeds(of)
    elsewhere = {
        "present." + name[5:]: np.zeros_like(each) for name, each in given.items() if "past." in name
    }
    assert of.bind(given, elsewhere) is None


def changed(folder: Path, into: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    """The step graph with something changed."""
    model = onnx.load(step_graph(folder))
    change(model.graph)
    found = into / "changed.onnx"
    onnx.save_model(model, found)
    return found


def _one(graph: onnx.GraphProto, operator: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == operator)


def _no_relu(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type in ("Relu", "Gelu"):
            node.op_type = "Tanh"


def _another_scale(graph: onnx.GraphProto) -> None:
    _one(graph, "GroupQueryAttention").attribute.append(onnx.helper.make_attribute("scale", 0.5))


def _another_epsilon(graph: onnx.GraphProto) -> None:
    norm = _one(graph, "LayerNormalization")
    next(each for each in norm.attribute if each.name == "epsilon").f = 0.5


def _another_zero(graph: onnx.GraphProto) -> None:
    name = _one(graph, "QuantizeLinear").input[2]
    for weight in graph.initializer:
        if weight.name == name:
            weight.CopyFrom(onnx.numpy_helper.from_array(np.array(7, np.uint8), name))


def _another_node(graph: onnx.GraphProto) -> None:
    graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["again"]))


def _a_matrix_of_floats(graph: onnx.GraphProto) -> None:
    name = _one(graph, "MatMulIntegerToFloat").input[1]
    for weight in graph.initializer:
        if weight.name == name:
            array = onnx.numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(array, name))


CHANGES = [_no_relu, _another_scale, _another_epsilon, _another_zero, _another_node, _a_matrix_of_floats]


@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_that_computes_anything_else_is_left_to_onnxruntime(
    folder: Path, tmp_path: Path, change: Callable[[onnx.GraphProto], None]
) -> None:
    assert open_native(changed(folder, tmp_path, lambda graph: None)) is not None
    assert open_native(changed(folder, tmp_path, change)) is None


@pytest.mark.parametrize(("precision", "form"), [("int8", "plain"), ("fp32", "fast"), ("fp32", "plain")])
def test_other_forms_are_left_to_onnxruntime(tmp_path: Path, precision: Any, form: Any) -> None:
    config = ModelConfig(architecture="transformer", encoder_layers=1, decoder_layers=1, hidden=64, heads=4)
    write_graphs(tmp_path, lower(build("translator", config, VOCAB).eval(), precision, form))
    for path in tmp_path.glob("*.onnx"):
        assert open_native(path) is None
        assert isinstance(open_graph(path), Session)


def test_heads_of_an_odd_size_are_left_to_onnxruntime(tmp_path: Path) -> None:
    config = ModelConfig(architecture="transformer", encoder_layers=0, decoder_layers=1, hidden=64, heads=8)
    write_graphs(tmp_path, lower(build("language", config, VOCAB).eval(), "int8", "fast"))
    assert open_native(tmp_path / "model.onnx") is None


def test_a_file_that_is_no_graph_is_left_to_onnxruntime(tmp_path: Path) -> None:
    for content in (b"", b"no graph", bytes(range(256)) * 9):
        (tmp_path / "model.onnx").write_bytes(content)
        assert open_native(tmp_path / "model.onnx") is None
    assert open_native(tmp_path / "absent.onnx") is None


@pytest.mark.parametrize(
    "place", [Place(kernels=False), Place(resident=True)], ids=["unwanted", "state stays with the runtime"]
)
def test_onnxruntime_where_it_is_asked_for(folder: Path, place: Place) -> None:
    for path in folder.glob("*.onnx"):
        assert isinstance(open_graph(path, device=place), Session)
        assert isinstance(open_graph(path, threads=2), Session)
        assert not isinstance(open_graph(path), Session)


@pytest.mark.skipif("KERNELS_UNDER_TEST" in os.environ, reason="another library stands in for it")
def test_a_library_that_was_not_compiled_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "MODULE", "bundle.native._absent")
    assert library.compiled() is None


def test_onnxruntime_where_something_is_lacking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_flags", lambda: NEEDED - {"avx512_vnni"})
    monkeypatch.setattr(graph, "kernels", library.kernels.__wrapped__)
    for path in folder.glob("*.onnx"):
        assert isinstance(open_graph(path), Session)
    monkeypatch.setattr(library, "_flags", lambda: NEEDED)
    monkeypatch.setattr(library, "compiled", lambda: None)
    for path in folder.glob("*.onnx"):
        assert isinstance(open_graph(path), Session)


def test_onnxruntime_where_the_kernels_do_not_give_the_golden_answers(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = root / "models" / "chars-en"
    assert open_bundle(bundle).provider == PROVIDER
    check = load._check_golden

    def doubting(path: Path, model: Any, goldens: Any) -> None:
        if model.provider == PROVIDER:
            raise BundleError(path, "golden input and so on")
        check(path, model, goldens)

    monkeypatch.setattr(load, "_check_golden", doubting)
    assert open_bundle(bundle).provider == "CPUExecutionProvider"
