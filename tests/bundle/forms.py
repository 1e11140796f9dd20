"""Small true graphs of every form, with plain numpy beside them to say what they should answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

from bundle.session import Session
from bundle.stepper import Prompt, Stepper

VOCAB = 12
HIDDEN = 6
CAPACITY = 24
PAD, BOS, EOS = 0, 1, 2

Weights = dict[str, np.ndarray]
Reference = Callable[[Prompt], np.ndarray]

HEADER = '<ir_version: 8, opset_import: ["" : 18]>\n'

RECURRENT = """g (
  int64[batch, time] ids, int32[batch] counts, float[batch, 6] past.0.hidden, float[batch, 6] past.0.cell
) => (float[batch, time, 12] logits, float[batch, 6] present.0.hidden, float[batch, 6] present.0.cell) {
  embedded = Gather (embedding, ids)
  x = Transpose <perm = [1, 0, 2]> (embedded)
  h = Unsqueeze (past.0.hidden, axis0)
  c = Unsqueeze (past.0.cell, axis0)
  y, yh, yc = LSTM <hidden_size = 6> (x, W, R, B, counts, h, c)
  y3 = Squeeze (y, axis1)
  rows = Transpose <perm = [1, 0, 2]> (y3)
  logits = MatMul (rows, head)
  present.0.hidden = Squeeze (yh, axis0)
  present.0.cell = Squeeze (yc, axis0)
}"""

# The queries, keys and values of one head; `store` says where the new entries go.
ATTENTION = """g (
  int64[batch, time] ids, int32[batch] lengths,
  float[batch, {axis}, 6] past.0.key, float[batch, {axis}, 6] past.0.value
) => (
  float[batch, time, 12] logits,
  float[batch, {out}, 6] present.0.key, float[batch, {out}, 6] present.0.value
) {{
  shape = Shape (ids)
  time = Gather <axis = 0> (shape, one)
  batch = Gather <axis = 0> (shape, zero)
  t = Range (zero, time, one)
  long = Cast <to = 7> (lengths)
  starts = Unsqueeze (long, axis1)
  wanted = Add (starts, t)
  positions = Min (wanted, last)
  token = Gather (embedding, ids)
  place = Gather (place_table, positions)
  x = Add (token, place)
  q = MatMul (x, Q)
  k = MatMul (x, K)
  v = MatMul (x, V)
  {store}
  b = Range (zero, batch, one)
  b1 = Unsqueeze (b, axis1)
  b2 = Expand (b1, shape)
  b3 = Unsqueeze (b2, axis2)
  p3 = Unsqueeze (positions, axis2)
  indices = Concat <axis = -1> (b3, p3)
  present.0.key = ScatterND (keys, indices, k)
  present.0.value = ScatterND (values, indices, v)
  kt = Transpose <perm = [0, 2, 1]> (present.0.key)
  scores = MatMul (q, kt)
  size = Shape <start = 1, end = 2> (present.0.key)
  size0 = Squeeze (size)
  j = Range (zero, size0, one)
  seen = LessOrEqual (j, p3)
  masked = Where (seen, scores, minus)
  attention = Softmax <axis = -1> (masked)
  mixed = MatMul (attention, present.0.value)
  body = Add (x, mixed)
  logits = MatMul (body, head)
}}"""
GROWS = """room_like = Mul (k, nought)
  keys = Concat <axis = 1> (past.0.key, room_like)
  values = Concat <axis = 1> (past.0.value, room_like)"""
IN_PLACE = """keys = Identity (past.0.key)
  values = Identity (past.0.value)"""

ENCODER = """g (int64[batch, source] ids, int32[batch] counts)
 => (float[batch, source, 6] memory.states, float[batch, 6] past.0.hidden) {
  embedded = Gather (source_embedding, ids)
  mixed = MatMul (embedded, E)
  memory.states = Tanh (mixed)
  shape = Shape (ids)
  source = Gather <axis = 0> (shape, one)
  j = Range (zero, source, one)
  long = Cast <to = 7> (counts)
  ends = Unsqueeze (long, axis1)
  real = Less (j, ends)
  weight = Cast <to = 1> (real)
  weight3 = Unsqueeze (weight, axis2)
  kept = Mul (memory.states, weight3)
  past.0.hidden = ReduceSum <keepdims = 0> (kept, axis1)
}"""

DECODER = """g (
  int64[batch, time] ids, int32[batch] counts, float[batch, 6] past.0.hidden,
  float[batch, source, 6] memory.states, int32[batch] source_counts
) => (float[batch, time, 12] logits, float[batch, 6] present.0.hidden, float[batch, time, source] attention) {
  embedded = Gather (embedding, ids)
  x = Transpose <perm = [1, 0, 2]> (embedded)
  h = Unsqueeze (past.0.hidden, axis0)
  y, yh = RNN <hidden_size = 6> (x, W, R, B, counts, h)
  y3 = Squeeze (y, axis1)
  rows = Transpose <perm = [1, 0, 2]> (y3)
  turned = Transpose <perm = [0, 2, 1]> (memory.states)
  scores = MatMul (rows, turned)
  size = Shape <start = 1, end = 2> (memory.states)
  size0 = Squeeze (size)
  j = Range (zero, size0, one)
  long = Cast <to = 7> (source_counts)
  ends = Unsqueeze (long, axis1)
  ends3 = Unsqueeze (ends, axis2)
  real = Less (j, ends3)
  masked = Where (real, scores, minus)
  attention = Softmax <axis = -1> (masked)
  context = MatMul (attention, memory.states)
  body = Add (rows, context)
  logits = MatMul (body, head)
  present.0.hidden = Squeeze (yh, axis0)
}"""

# No state at all: the next token from the last one.
BIGRAM = """g (int64[batch, time] ids) => (float[batch, time, vocab] logits) {
  logits = Gather (table, ids)
}"""

VECTORS = """g (int64[batch, terms] ids, float[batch, terms] weights, int64[1] topn)
 => (float[batch, hidden] query, float[batch, topn] scores, int64[batch, topn] neighbours) {
  terms_ = Gather (table, ids)
  w = Unsqueeze (weights, axis2)
  weighted = Mul (terms_, w)
  sum = ReduceSum <keepdims = 0> (weighted, axis1)
  length = ReduceL2 <keepdims = 1> (sum, axis1)
  query = Div (sum, length)
  cosines = MatMul (query, turned)
  scores, neighbours = TopK <axis = 1> (cosines, topn)
}"""

CONSTANTS: Weights = {
    "zero": np.array(0, np.int64),
    "one": np.array(1, np.int64),
    "axis0": np.array([0], np.int64),
    "axis1": np.array([1], np.int64),
    "axis2": np.array([2], np.int64),
    "last": np.array(CAPACITY - 1, np.int64),
    "minus": np.array(-1e30, np.float32),
    "nought": np.array(0, np.float32),
}


def model(text: str, weights: Mapping[str, np.ndarray], renamed: Mapping[str, str] | None = None) -> bytes:
    """A graph written in ONNX's own text form (which has no dots in names), with its weights."""
    for old, new in {
        "past.0.": "past_0_", "present.0.": "present_0_", "memory.states": "memory_states"
    }.items():  # fmt: skip
        text = text.replace(old, new)
    proto = parser.parse_model(HEADER + text)
    dots = {"past_0_": "past.0.", "present_0_": "present.0.", "memory_states": "memory.states"}

    def dotted(name: str) -> str:
        for old, new in dots.items():
            name = name.replace(old, new)
        return name

    for node in proto.graph.node:
        node.input[:] = [dotted(name) for name in node.input]
        node.output[:] = [dotted(name) for name in node.output]
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = (renamed or {}).get(dotted(value.name), dotted(value.name))
    used = {name for node in proto.graph.node for name in node.input}
    everything = {**CONSTANTS, **weights}
    proto.graph.initializer.extend(
        numpy_helper.from_array(everything[name], name) for name in sorted(used & everything.keys())
    )
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def random_weights(seed: int) -> Weights:
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    return {
        "embedding": draw(VOCAB, HIDDEN),
        "source_embedding": draw(VOCAB, HIDDEN),
        "place_table": draw(CAPACITY, HIDDEN),
        "head": draw(HIDDEN, VOCAB, scale=1.5),
        "W": draw(1, 4 * HIDDEN, HIDDEN),
        "R": draw(1, 4 * HIDDEN, HIDDEN),
        "B": draw(1, 8 * HIDDEN),
        "Q": draw(HIDDEN, HIDDEN, scale=0.5),
        "K": draw(HIDDEN, HIDDEN, scale=0.5),
        "V": draw(HIDDEN, HIDDEN),
        "E": draw(HIDDEN, HIDDEN),
    }


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def recurrent_reference(w: Weights) -> Reference:
    """Logits [len(ids), vocab] of a whole prompt by the formulas of the LSTM."""

    def logits(prompt: Prompt) -> np.ndarray:
        h = c = np.zeros(HIDDEN)
        bias = w["B"][0, : 4 * HIDDEN] + w["B"][0, 4 * HIDDEN :]
        rows = []
        for id in prompt.ids:
            i, o, f, g = np.split(w["W"][0] @ w["embedding"][id] + w["R"][0] @ h + bias, 4)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
            rows.append(h @ w["head"])
        return np.array(rows)

    return logits


def attention_reference(w: Weights) -> Reference:
    """The same for one head of causal attention with learned positions."""

    def logits(prompt: Prompt) -> np.ndarray:
        x = w["embedding"][list(prompt.ids)] + w["place_table"][: len(prompt.ids)]
        scores = (x @ w["Q"]) @ (x @ w["K"]).T
        scores[np.triu_indices(len(x), 1)] = -np.inf
        return (x + _softmax(scores) @ (x @ w["V"])) @ w["head"]

    return logits


def translator_reference(w: Weights) -> Reference:
    """The same for a plain RNN that attends to tanh of its source, and begins with the sum of it."""

    def logits(prompt: Prompt) -> np.ndarray:
        memory = np.tanh(w["source_embedding"][list(prompt.source)] @ w["E"])
        h = memory.sum(0)
        bias = w["B"][0, :HIDDEN] + w["B"][0, HIDDEN : 2 * HIDDEN]
        rows = []
        for id in prompt.ids:
            h = np.tanh(w["W"][0, :HIDDEN] @ w["embedding"][id] + w["R"][0, :HIDDEN] @ h + bias)
            rows.append((h + _softmax(memory @ h) @ memory) @ w["head"])
        return np.array(rows)

    return logits


@dataclass
class Form:
    """A graph of one form of state, opened, and what it should answer."""

    name: str
    stepper: Stepper
    reference: Reference
    files: dict[str, bytes] = field(repr=False)
    capacity: int

    def prompt(self, *ids: int, source: Sequence[int] = (3, 4, EOS)) -> Prompt:
        return Prompt((BOS, *ids), tuple(source) if "encoder.onnx" in self.files else ())


def build_form(name: str, folder: Path, seed: int = 0) -> Form:
    w = random_weights(seed)
    capacity = 0
    if name == "recurrent":
        files, reference = {"model.onnx": model(RECURRENT, w)}, recurrent_reference(w)
    elif name == "growing":
        text = ATTENTION.format(axis="past", out="longer", store=GROWS)
        files, reference, capacity = {"model.onnx": model(text, w)}, attention_reference(w), CAPACITY
    elif name == "capacity":
        text = ATTENTION.format(axis="capacity", out="capacity", store=IN_PLACE)
        files, reference, capacity = {"model.onnx": model(text, w)}, attention_reference(w), CAPACITY
    else:
        small = {**w, "W": w["W"][:, :HIDDEN], "R": w["R"][:, :HIDDEN], "B": w["B"][:, : 2 * HIDDEN]}
        files = {"encoder.onnx": model(ENCODER, w), "decoder.onnx": model(DECODER, small)}
        reference = translator_reference(w)
    for file, raw in files.items():
        (folder / file).write_bytes(raw)
    graphs = [Session(folder / file) for file in files]
    encoder = graphs[0] if len(graphs) == 2 else None
    return Form(name, Stepper(graphs[-1], encoder, pad=PAD, capacity=capacity), reference, files, capacity)


FORMS = ["recurrent", "growing", "capacity", "translator"]


def bigram_graph(table: np.ndarray) -> bytes:
    proto = onnx.load_from_string(model(BIGRAM, {"table": table}))
    proto.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", "time", len(table)])
    )
    return proto.SerializeToString()


def vectors_graph(table: np.ndarray) -> bytes:
    """``table`` float32[vocab, hidden], rows of unit length or zeros."""
    return model(VECTORS, {"table": table, "turned": np.ascontiguousarray(table.T)})
