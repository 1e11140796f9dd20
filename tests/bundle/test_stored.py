"""Weights read in place are those that onnx reads."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bundle.manifest import Precision
from bundle.stored import read_stored
from export.vectors import GRAPH, lower_vectors
from tests.bundle.wordy import draw


def _write(path: Path, precision: Precision, *, external: bool = False) -> onnx.ModelProto:
    model = lower_vectors(draw(60, 24), precision, ngrams=draw(30, 24, seed=1))[GRAPH]
    if external:
        onnx.save_model(
            model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=256
        )
        return lower_vectors(draw(60, 24), precision, ngrams=draw(30, 24, seed=1))[GRAPH]
    path.write_bytes(model.SerializeToString())
    return model


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_weights_are_those_of_onnx(tmp_path: Path, precision: Precision, external: bool) -> None:
    model = _write(tmp_path / GRAPH, precision, external=external)
    stored = read_stored(tmp_path / GRAPH)
    graph = model.graph
    for border, told in ((graph.input, stored.inputs), (graph.output, stored.outputs)):
        assert told == {
            value.name: tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
            for value in border
        }
    assert [(node.operator, node.inputs, node.outputs) for node in stored.nodes] == [
        (node.op_type, tuple(node.input), tuple(node.output)) for node in graph.node
    ]
    for node, want in zip(stored.nodes, graph.node, strict=True):
        numbers = {each.name: helper.get_attribute_value(each) for each in want.attribute}
        assert node.attributes == {name: n for name, n in numbers.items() if isinstance(n, int | float)}
    want = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(stored.weights) == set(want)
    for name, array in want.items():
        assert stored.weights[name].dtype == array.dtype
        np.testing.assert_array_equal(stored.weights[name], array)


def test_a_table_of_bytes_is_not_copied(tmp_path: Path) -> None:
    _write(tmp_path / GRAPH, "int8")
    table = read_stored(tmp_path / GRAPH).weights["table_int8"]
    assert not table.flags.writeable
    base: object = table
    while not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else base.base  # type: ignore[attr-defined]
    assert len(base) == (tmp_path / GRAPH).stat().st_size


def test_a_shape_may_be_packed(tmp_path: Path) -> None:
    """Numbers of a list stand one a field or all in one; proto2 and proto3 writers differ."""
    tensor = bytes([8 + 2, 2, 3, 4]) + bytes([16, 3]) + bytes([8 * 8 + 2, 1]) + b"t"
    tensor += bytes([9 * 8 + 2, 12]) + bytes(range(12))
    graph = bytes([5 * 8 + 2, len(tensor)]) + tensor
    (tmp_path / "g").write_bytes(bytes([7 * 8 + 2, len(graph)]) + graph)
    table = read_stored(tmp_path / "g").weights["t"]
    np.testing.assert_array_equal(table, np.arange(12, dtype=np.int8).reshape(3, 4))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_cut_is_noticed(tmp_path: Path, precision: Precision) -> None:
    _write(tmp_path / GRAPH, precision)
    raw = (tmp_path / GRAPH).read_bytes()
    whole = read_stored(tmp_path / GRAPH)
    for length in (*range(0, len(raw), 97), len(raw) - 1):
        (tmp_path / "cut").write_bytes(raw[:length])
        try:
            found = read_stored(tmp_path / "cut")
        except ValueError:
            continue
        # a cut between two fields of the outermost message leaves a smaller one that is whole
        assert not found.weights or len(found.weights) == len(whole.weights)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"not a graph", "not"),
        (bytes([7 * 8 + 2, 100]), "whole"),
        (b"\xff" * 30, "not an ONNX file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, raw: bytes, why: str) -> None:
    (tmp_path / "g").write_bytes(raw)
    with pytest.raises(ValueError, match=why):
        read_stored(tmp_path / "g")


@pytest.mark.parametrize("location", ["../elsewhere", "/etc/passwd", ""])
def test_weights_lie_beside_the_graph_or_nowhere(tmp_path: Path, location: str) -> None:
    model = onnx.ModelProto()
    tensor = model.graph.initializer.add(name="table", data_type=1, dims=[1])
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "g").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="no file beside it"):
        read_stored(tmp_path / "g")
