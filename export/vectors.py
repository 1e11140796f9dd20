"""Word vectors as a graph: the weighted sum of a query's words and a scan of the whole table.

The table is stored once, its rows of unit length, and serves both the gather and the scan. Stored as int8 or
fp16 it is widened by the runtime when the graph is opened, so that answers come from fp32 arithmetic whatever
the precision of the file.

Words never seen are sums of n-grams (Bojanowski et al. 2017), whose rows lie in a table of their own: only
the rows that are gathered are widened.
"""

from __future__ import annotations

from typing import Any

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


def lower_vectors(
    vectors: Matrix, precision: Precision = "fp32", ngrams: Matrix | None = None
) -> dict[str, onnx.ModelProto]:
    """The graph of docs/bundle-format.md, "Vectors", for float vectors [vocab, hidden] of any length.

    ngrams: float [bucket, hidden], of which a word never seen is the sum; None leaves such words out.

    Rows of zeros (special tokens, padding) are no words: they add nothing to a query and rank last. `topn`
    beyond the vocabulary gives the whole vocabulary.

    Raises: ValueError for anything but matrices of finite numbers, equally wide.
    """
    vectors = _matrix(vectors, "vectors")
    vocab, hidden = vectors.shape
    unit = unit_rows(vectors)
    initializers, nodes = _table(unit, precision)
    words = "terms" if ngrams is None else "seen"
    nodes.append(helper.make_node("Gather", ["table", "ids"], [words], axis=0))
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "terms"]),
        helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", "terms"]),
        helper.make_tensor_value_info("topn", TensorProto.INT64, [1]),
    ]
    if ngrams is not None:
        stored, composing = _composed(_matrix(ngrams, "ngrams", hidden), precision)
        initializers += stored
        nodes += [*composing, helper.make_node("Add", ["seen", "composed"], ["terms"])]
        inputs.append(helper.make_tensor_value_info("ngrams", TensorProto.INT64, ["batch", "terms", "grams"]))
    constants = {
        "places": np.where(unit.any(1), np.float32(0), _NO_WORD),
        "least": _LEAST,
        "terms_axis": np.array([1], np.int64),
        "last_axis": np.array([-1], np.int64),
        "vocab_size": np.array([vocab], np.int64),
    }
    initializers += [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes += [
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
        inputs,
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


def _composed(ngrams: Matrix, precision: Precision) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """The float32 tensor `composed` [batch, terms, hidden]: the sum of a term's n-grams as a unit vector.

    Unlike the words' table this one is never scanned, so it stays in memory as it is stored. Its last row is
    zeros: the row -1, which pads. A term without n-grams is zeros.
    """
    padded = np.pad(ngrams, ((0, 1), (0, 0)))
    rows = "gathered"
    stored: dict[str, npt.NDArray[Any]]
    if precision == "int8":
        lengths = np.linalg.norm(padded.astype(np.float64), axis=1)
        whole, scales = quantized_rows(unit_rows(padded))
        stored = {"ngram_table_int8": whole, "ngram_scales": (scales * lengths).astype(np.float32)}
        nodes = [
            helper.make_node("Gather", ["ngram_table_int8", "ngrams"], ["gathered_int8"], axis=0),
            helper.make_node("Cast", ["gathered_int8"], ["whole"], to=TensorProto.FLOAT),
            helper.make_node("Gather", ["ngram_scales", "ngrams"], ["gathered_scales"], axis=0),
            helper.make_node("Unsqueeze", ["gathered_scales", "last_axis"], ["row_scales"]),
            helper.make_node("Mul", ["whole", "row_scales"], [rows]),
        ]
    elif precision == "fp16":
        stored = {"ngram_table_fp16": padded.astype(np.float16)}
        nodes = [
            helper.make_node("Gather", ["ngram_table_fp16", "ngrams"], ["gathered_fp16"], axis=0),
            helper.make_node("Cast", ["gathered_fp16"], [rows], to=TensorProto.FLOAT),
        ]
    else:
        stored = {"ngram_table": padded}
        nodes = [helper.make_node("Gather", ["ngram_table", "ngrams"], [rows], axis=0)]
    nodes += [
        # A running sum adds in order, so that zeros behind a term's n-grams change no bit of it; ReduceSum
        # adds in groups that depend on how many there are, which the longest word of a batch decides.
        helper.make_node("CumSum", [rows, "grams_axis"], ["running"]),
        helper.make_node("Gather", ["running", "last"], ["ngram_sum"], axis=2),
        helper.make_node("ReduceL2", ["ngram_sum", "last_axis"], ["ngram_length"], keepdims=1),
        helper.make_node("Max", ["ngram_length", "least"], ["ngram_divisor"]),
        helper.make_node("Div", ["ngram_sum", "ngram_divisor"], ["composed"]),
    ]
    stored |= {"grams_axis": np.array(2, np.int64), "last": np.array(-1, np.int64)}
    return [numpy_helper.from_array(array, name) for name, array in stored.items()], nodes


def _matrix(array: Matrix, name: str, width: int = 0) -> Matrix:
    matrix = np.asarray(array, np.float32)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be a matrix of finite numbers, not of shape {matrix.shape}")
    if width and matrix.shape[1] != width:
        raise ValueError(f"{name} are {matrix.shape[1]} wide and the vectors {width}")
    return matrix
