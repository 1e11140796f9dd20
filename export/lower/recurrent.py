"""Recurrent networks as the RNN, GRU and LSTM operators."""

from typing import Final

import numpy as np
import torch
from torch import nn

from bundle.manifest import Precision
from export.lower.builder import GraphBuilder
from export.lower.layers import hide_beyond, linear, lookup, tied
from training.models.contract import present
from training.models.recurrent import (
    Cells,
    Embedding,
    LuongAttention,
    Output,
    RecurrentLanguage,
    RecurrentTranslator,
)

#: Where torch's blocks of gates stand in the operator: LSTM i f g o -> i o f c, GRU r z n -> z r h.
GATES: Final[dict[str, tuple[int, ...]]] = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
#: The same for the fast form: those behind a sigmoid first.
FAST_GATES: Final[dict[str, tuple[int, ...]]] = {"rnn": (0,), "gru": (0, 1, 2), "lstm": (0, 1, 3, 2)}
OPERATORS: Final = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}

State = dict[str, str]


def language(model: RecurrentLanguage, precision: Precision) -> GraphBuilder:
    """`model.onnx`."""
    b = GraphBuilder("language", model.step_inputs, model.step_outputs, precision)
    past = {name: name for name in model.step_inputs if name.startswith("past.")}
    y, state = cells(b, "cells", model.cells, embed(b, "embedding", model.embedding, "ids"), "counts", past)
    for name, value in state.items():
        b.result(present(name), value)
    b.result("logits", output(b, model.output, "embedding", model.embedding, rows_first(b, y)))
    return b


def encoder(model: RecurrentTranslator, precision: Precision) -> GraphBuilder:
    """`encoder.onnx`: the memory and the decoder's first state."""
    b = GraphBuilder("encoder", model.encode_inputs, model.encode_outputs, precision)
    x = embed(b, "source_embedding", model.source_embedding, "ids")
    y, state = cells(b, "encoder", model.encoder, x, "counts", None)
    for name, value in state.items():
        b.result(name, value)
    if model.attention is not None:
        value = rows_first(b, y)
        b.result("memory.0.key", linear(b, "attention.general", model.attention.general, value))
        b.result("memory.0.value", value)
    return b


def decoder(model: RecurrentTranslator, precision: Precision) -> GraphBuilder:
    """`decoder.onnx`: one stretch of target tokens."""
    b = GraphBuilder("decoder", model.step_inputs, model.step_outputs, precision)
    past = {name: name for name in model.step_inputs if name.startswith("past.")}
    x = embed(b, "target_embedding", model.target_embedding, "ids")
    y, state = cells(b, "decoder", model.decoder, x, "counts", past)
    for name, value in state.items():
        b.result(present(name), value)
    y = rows_first(b, y)
    if model.attention is not None:
        y, weights = luong(b, model.attention, y)
        b.result("attention", weights)
    b.result("logits", output(b, model.output, "target_embedding", model.target_embedding, y))
    return b


def embed(b: GraphBuilder, name: str, embedding: Embedding, ids: str) -> str:
    """Token vectors, time first: [time, batch, width] from ids [batch, time]."""
    turned = b.node("Transpose", ids, perm=[1, 0])
    if embedding.tokens is not None:
        return lookup(b, f"{name}.tokens", embedding.tokens, turned)
    return b.node("OneHot", turned, b.scalar(embedding.width), b.constant([0, 1], np.float32), axis=-1)


def cells(
    b: GraphBuilder, name: str, module: Cells, x: str, counts: str, past: State | None
) -> tuple[str, State]:
    """The stacked layers; x and the result are [time, batch, width]; no `past` = zeros."""
    past, state = past or {}, {}
    # onnxruntime's RNN, unlike its LSTM and GRU, multiplies a single row by another kernel than several: the
    # last bits of a row would tell whether it was alone. So a row of zeros always comes along.
    escorted = module.architecture == "rnn"
    if escorted:
        x = escort(b, x, 1)
        counts = b.node("Concat", counts, b.constant([1], np.int32), axis=0)
        past = {part: escort(b, value, 0) for part, value in past.items()}
    for layer in range(module.layers):
        with b.scope(f"{name}.{layer}"):
            x, ends = cell(b, f"{name}.net", module, layer, (x, counts), past)
        state.update(ends)
    if escorted:
        x = unescort(b, x, 1)
        state = {part: unescort(b, value, 0) for part, value in state.items()}
    return x, state


def cell(
    b: GraphBuilder, name: str, module: Cells, layer: int, rows: tuple[str, str], past: State
) -> tuple[str, State]:
    """One layer: its outputs [time, batch, hidden] and its last state."""
    parts = [
        f"past.{layer}.{part}" for part in ("hidden", "cell")[: 2 if module.architecture == "lstm" else 1]
    ]
    x, counts = rows
    starts = [b.node("Unsqueeze", past[part], b.ints(0)) for part in parts if part in past]
    y, *ends = b.nodes(
        OPERATORS[module.architecture],
        x,
        *weights(b, name, module, layer),
        counts,
        *starts,
        outputs=1 + len(parts),
        hidden_size=module.hidden,
        direction="bidirectional" if module.bidirectional else "forward",
        **({"linear_before_reset": 1} if module.architecture == "gru" else {}),
    )
    state = {part: last(b, module, end) for part, end in zip(parts, ends, strict=True)}
    return directions_last(b, module, y), state


def escort(b: GraphBuilder, value: str, axis: int) -> str:
    """Append a row of zeros at an axis."""
    return b.node("Pad", value, b.ints(0, 1), "", b.ints(axis))


def unescort(b: GraphBuilder, value: str, axis: int) -> str:
    """Take the last row of an axis away."""
    return b.node("Slice", value, b.ints(0), b.ints(-1), b.ints(axis))


def weights(b: GraphBuilder, name: str, module: Cells, layer: int) -> list[str]:
    """W, R and B of a layer: [directions, gates * hidden, ...] with the gates in the operator's order."""
    suffixes = [f"l{layer}", f"l{layer}_reverse"] if module.bidirectional else [f"l{layer}"]
    values = []
    for part in ("weight_ih", "weight_hh"):
        if part == "weight_hh" and not module.bidirectional:
            values.append(_held(b, f"{name}.{part}_l{layer}", module, layer))
            continue
        whole = torch.cat([_reordered(module, f"{part}_{suffix}") for suffix in suffixes])
        rows = b.rows(f"{name}.{part}_l{layer}", whole)
        shape = b.ints(len(suffixes), whole.shape[0] // len(suffixes), whole.shape[1])
        values.append(b.node("Reshape", rows, shape))
    biases = [
        torch.cat([_reordered(module, f"bias_ih_{suffix}"), _reordered(module, f"bias_hh_{suffix}")])
        for suffix in suffixes
    ]
    return [*values, b.vector(f"{name}.bias_l{layer}", torch.stack(biases))]


def _held(b: GraphBuilder, name: str, module: Cells, layer: int) -> str:
    """R of a layer, [1, gates * hidden, hidden], from a matrix that lies as the fast form multiplies by it.

    So a bundle of both forms stores it once. The runtime turns it when it opens the graph.
    """
    stored, wanted = FAST_GATES[module.architecture], GATES[module.architecture]
    matrix = b.matrix(name, gates_of(module, f"weight_hh_l{layer}", stored))
    if len(wanted) > 1:
        blocks = b.nodes("Split", matrix, outputs=len(stored), axis=-1, num_outputs=len(stored))
        matrix = b.node("Concat", *(blocks[stored.index(gate)] for gate in wanted), axis=-1)
    return b.node("Unsqueeze", b.node("Transpose", matrix, perm=[1, 0]), b.ints(0))


def gates_of(module: Cells, name: str, order: tuple[int, ...]) -> torch.Tensor:
    """A weight or bias of torch's with its blocks of gates in another order."""
    blocks = getattr(module.net, name).detach().split(module.hidden)
    return torch.cat([blocks[gate] for gate in order])


def _reordered(module: Cells, name: str) -> torch.Tensor:
    return gates_of(module, name, GATES[module.architecture])


def last(b: GraphBuilder, module: Cells, value: str) -> str:
    """A layer's last state [batch, hidden] from [directions, batch, part]."""
    if not module.bidirectional:
        return b.node("Squeeze", value, b.ints(0))
    return b.node("Reshape", b.node("Transpose", value, perm=[1, 0, 2]), b.ints(0, -1))


def directions_last(b: GraphBuilder, module: Cells, value: str) -> str:
    """A layer's outputs [time, batch, hidden] from [time, directions, batch, part]."""
    if not module.bidirectional:
        return b.node("Squeeze", value, b.ints(1))
    return b.node("Reshape", b.node("Transpose", value, perm=[0, 2, 1, 3]), b.ints(0, 0, -1))


def rows_first(b: GraphBuilder, y: str) -> str:
    """[batch, time, hidden] from [time, batch, hidden]."""
    return b.node("Transpose", y, perm=[1, 0, 2])


def luong(b: GraphBuilder, module: LuongAttention, y: str) -> tuple[str, str]:
    """The attentional vector [batch, time, hidden] and the weights [batch, time, source]."""
    scores = b.node("MatMul", y, b.node("Transpose", "memory.0.key", perm=[0, 2, 1]))
    masked = b.node("Add", scores, hide_beyond(b, "source_counts", "memory.0.key", axes=(1,)))
    found = b.node("Softmax", masked, axis=-1)
    context = b.node("MatMul", found, "memory.0.value")
    both = b.node("Concat", context, y, axis=-1)
    return b.node("Tanh", linear(b, "attention.combine", module.combine, both)), found


def output(b: GraphBuilder, module: Output, name: str, embedding: Embedding, y: str) -> str:
    """Logits [batch, time, vocab]."""
    if module.free is not None:
        return linear(b, "output.free", module.free, y)
    if module.projection is not None:
        y = linear(b, "output.projection", module.projection, y)
    tokens = embedding.tokens
    if not isinstance(tokens, nn.Embedding):
        raise ValueError("a tied output needs an embedding")
    return tied(b, f"{name}.tokens", tokens, y)
