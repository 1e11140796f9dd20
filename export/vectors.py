"""Word vectors as a graph: the weighted sum of a query's words and a scan of the whole table.

The table is stored once, its rows of unit length, and serves both the gather and the scan. Stored as int8 or
fp16 it is widened by the runtime when the graph is opened, so that answers come from fp32 arithmetic whatever
the precision of the file.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from bundle.manifest import Precision

OPSET = 18
IR_VERSION = 9
GRAPH = "vectors.onnx"

Matrix = npt.NDArray[np.float32]

# Added to the scores of rows that are no words: below any cosine.
_NO_WORD = np.float32(-4.0)
# Least length of a query: words that cancel out give zero scores instead of NaN.
_LEAST = np.float32(1e-12)


def lower_vectors(vectors: Matrix, precision: Precision = "fp32") -> dict[str, onnx.ModelProto]:
    """The graph of docs/bundle-format.md, "Vectors", for float vectors [vocab, hidden] of any length.

    Rows of zeros (special tokens, padding) are no words: they add nothing to a query and rank last. `topn`
    beyond the vocabulary gives the whole vocabulary.

    Raises: ValueError for anything but a matrix of finite numbers.
    """
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise ValueError(f"vectors must be a matrix of finite numbers, not of shape {vectors.shape}")
    vocab, hidden = vectors.shape
    unit = unit_rows(vectors)
    initializers, nodes = _table(unit, precision)
    constants = {
        "places": np.where(unit.any(1), np.float32(0), _NO_WORD),
        "least": _LEAST,
        "terms_axis": np.array([1], np.int64),
        "last_axis": np.array([-1], np.int64),
        "vocab_size": np.array([vocab], np.int64),
    }
    initializers += [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes += [
        helper.make_node("Gather", ["table", "ids"], ["terms"], axis=0),
        helper.make_node("Unsqueeze", ["weights", "last_axis"], ["factors"]),
        helper.make_node("Mul", ["terms", "factors"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "terms_axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceL2", ["sum", "terms_axis"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "least"], ["divisor"]),
        helper.make_node("Div", ["sum", "divisor"], ["query"]),
        helper.make_node("Gemm", ["query", "table", "places"], ["cosines"], transB=1),
        helper.make_node("Min", ["topn", "vocab_size"], ["count"]),
        helper.make_node("TopK", ["cosines", "count"], ["scores", "neighbours"], axis=1, largest=1, sorted=1),
    ]
    graph = helper.make_graph(
        nodes,
        "vectors",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "terms"]),
            helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", "terms"]),
            helper.make_tensor_value_info("topn", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("query", TensorProto.FLOAT, ["batch", hidden]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "topn"]),
            helper.make_tensor_value_info("neighbours", TensorProto.INT64, ["batch", "topn"]),
        ],
        initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="voisin",
    )
    onnx.checker.check_model(model, full_check=True)
    return {GRAPH: model}


def unit_rows(vectors: Matrix) -> Matrix:
    """Rows divided by their length; rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: Matrix = np.divide(vectors, np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return unit


def quantized_rows(unit: Matrix) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Unit rows as symmetric int8 [vocab, hidden] with a float32 scale a row [vocab].

    The scale restores the unit length rather than the largest entry: cosines stay cosines, and only the
    direction carries an error.
    """
    largest = np.abs(unit).max(1, keepdims=True)
    whole = np.rint(np.divide(unit, largest, out=np.zeros_like(unit), where=largest > 0) * 127)
    lengths = np.linalg.norm(whole, axis=1)
    scales = np.divide(1.0, lengths, out=np.ones_like(lengths), where=lengths > 0)
    return whole.astype(np.int8), scales.astype(np.float32)


def _table(unit: Matrix, precision: Precision) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """The float32 tensor `table` [vocab, hidden]: an initialiser, or one and the node that widens it."""
    if precision == "fp32":
        return [numpy_helper.from_array(unit, "table")], []
    if precision == "fp16":
        stored = [numpy_helper.from_array(unit.astype(np.float16), "table_fp16")]
        return stored, [helper.make_node("Cast", ["table_fp16"], ["table"], to=TensorProto.FLOAT)]
    whole, scales = quantized_rows(unit)
    stored = [numpy_helper.from_array(whole, "table_int8"), numpy_helper.from_array(scales, "scales")]
    return stored, [helper.make_node("DequantizeLinear", ["table_int8", "scales"], ["table"], axis=0)]
