"""Recurrent language models lowered for speed on onnxruntime: one token a row with as few nodes as possible.

What a token adds to the gates of the first layer is looked up in a table, embedding, weights and biases in
one; what stands below a layer and what it holds are multiplied together. A hidden state lies between -1 and
1, so that with int8 its scale is known before it is: rounding it takes one node, and no row knows another.

All tokens of a row but its last are read by a Loop, which does not run at all where there is one token; the
last is read by the same nodes outside of it, so a text read at once and step by step gives the same numbers.
"""

from collections.abc import Callable
from typing import Final

import torch
from onnx import TensorProto
from torch import nn

from bundle.manifest import Precision
from bundle.stepper import TensorSpec
from export.lower.builder import GraphBuilder
from export.lower.fast import BEST, Specs, best
from export.lower.layers import lookup
from export.lower.recurrent import FAST_GATES, gates_of
from export.quantize import restored
from training.models.contract import present
from training.models.recurrent import Cells, Output, RecurrentLanguage, state_names

FOLDED: Final = 2048
"""Most tokens whose share of the gates is kept in a table; of more it would be larger than what it saves."""

State = dict[str, str]


def border(model: RecurrentLanguage) -> tuple[Specs, Specs]:
    """Inputs and outputs of the step graph."""
    count = min(BEST, model.vocab_size)
    states = state_names(model.config)
    inputs = [
        TensorSpec("ids", "int64", ("batch", "time")),
        TensorSpec("counts", "int32", ("batch",)),
        TensorSpec("picks", "int64", ("batch", "picked")),
        *(TensorSpec(name, "float32", ("batch", model.config.hidden)) for name in states),
    ]
    outputs = [
        TensorSpec("logits", "float32", ("batch", "picked", model.vocab_size)),
        TensorSpec("best.scores", "float32", ("batch", "picked", count)),
        TensorSpec("best.ids", "int64", ("batch", "picked", count)),
        *(TensorSpec(present(name), "float32", ("batch", model.config.hidden)) for name in states),
    ]
    return {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}


def language(model: RecurrentLanguage, precision: Precision) -> GraphBuilder:
    """`model.onnx`."""
    b = GraphBuilder("language", *border(model), precision, whole=True)
    names = state_names(model.config)
    counts = b.node("Cast", "counts", to=TensorProto.INT64)
    # the last token of each row comes first, so that one column holds those of all rows
    backwards = b.node("ReverseSequence", "ids", counts, batch_axis=0, time_axis=1)
    rest = b.node("Sub", b.node("Shape", "ids", start=1, end=2), b.ints(1))

    def body(number: str, carried: list[str]) -> tuple[list[str], list[str]]:
        place = b.node("Sub", rest, number)
        ids = b.node("Gather", backwards, b.node("Squeeze", place), axis=1)
        state = step(b, model, ids, dict(zip(names, carried, strict=True)))
        # shorter rows begin later: until then they keep what they came with
        begun = b.node("Unsqueeze", b.node("Less", place, counts), b.ints(1))
        kept = [b.node("Where", begun, state[name], old) for name, old in zip(names, carried, strict=True)]
        return kept, [state[_top(model)]]

    held, tops = b.loop(rest, names, body)
    state = step(
        b, model, b.node("Gather", backwards, b.scalar(0), axis=1), dict(zip(names, held, strict=True))
    )
    for name in names:
        b.result(present(name), state[name])
    all_tops = b.node("Concat", *tops, b.node("Unsqueeze", state[_top(model)], b.ints(0)), axis=0)
    # of each row the last is the last: places are counted from the end
    places = b.node("Sub", "picks", b.node("Unsqueeze", counts, b.ints(1)))
    picked = b.node(
        "GatherND",
        b.node("Transpose", all_tops, perm=[1, 0, 2]),
        b.node("Unsqueeze", places, b.ints(2)),
        batch_dims=1,
    )
    logits = output(b, model, picked)
    b.result("logits", logits)
    scores, ids = best(b, b.node("LogSoftmax", logits, axis=-1), model.vocab_size)
    b.result("best.scores", scores)
    b.result("best.ids", ids)
    return b


def step(b: GraphBuilder, model: RecurrentLanguage, ids: str, past: State) -> State:
    """The state after one token a row: ids int64 [batch], states [batch, hidden]."""
    module = model.cells
    state: State = {}
    below = ""
    for layer in range(module.layers):
        with b.scope(f"cells.{layer}"):
            below = CELLS[module.architecture](b, model, layer, (ids, below), past, state)
    return state


def output(b: GraphBuilder, model: RecurrentLanguage, y: str) -> str:
    """Logits [..., vocab] of hidden states."""
    module: Output = model.output
    if module.free is not None:
        return _product(b, "output.free.weight", module.free.weight, y, module.free.bias)
    tokens = model.embedding.tokens
    if tokens is None:
        raise ValueError("a tied output needs an embedding")
    if module.projection is None:
        return b.tied_product("embedding.tokens.weight", tokens.weight, b.within(y, 1.0))
    projection = module.projection
    y = _product(b, "output.projection.weight", projection.weight, y, projection.bias)
    return b.tied_product("embedding.tokens.weight", tokens.weight, y)


def _product(
    b: GraphBuilder, name: str, weight: torch.Tensor, x: str, bias: torch.Tensor | None = None
) -> str:
    """x W' + bias of hidden states: they lie between -1 and 1."""
    return b.product(name, weight, b.within(x, 1.0), "" if bias is None else b.vector(f"{name}.bias", bias))


Below = tuple[str, str]
"""The tokens, and the hidden state of the layer below where there is one."""


def _lstm(
    b: GraphBuilder, model: RecurrentLanguage, layer: int, below: Below, past: State, state: State
) -> str:
    hidden, cell = f"past.{layer}.hidden", f"past.{layer}.cell"
    size = model.cells.hidden
    gates = _summed(b, model, layer, below, past[hidden])
    open_, new = b.nodes("Split", gates, b.ints(3 * size, size), outputs=2, axis=-1)
    into, keep, out = b.nodes("Split", b.node("Sigmoid", open_), outputs=3, axis=-1, num_outputs=3)
    kept = b.node("Mul", keep, past[cell])
    state[cell] = b.node("Add", kept, b.node("Mul", into, b.node("Tanh", new)))
    state[hidden] = b.node("Mul", out, b.node("Tanh", state[cell]))
    return state[hidden]


def _rnn(
    b: GraphBuilder, model: RecurrentLanguage, layer: int, below: Below, past: State, state: State
) -> str:
    hidden = f"past.{layer}.hidden"
    state[hidden] = b.node("Tanh", _summed(b, model, layer, below, past[hidden]))
    return state[hidden]


def _gru(
    b: GraphBuilder, model: RecurrentLanguage, layer: int, below: Below, past: State, state: State
) -> str:
    hidden, size = f"past.{layer}.hidden", model.cells.hidden
    old = past[hidden]
    weight, held = _part(model.cells, "weight_hh", layer), _part(model.cells, "bias_hh", layer)
    # the bias of the new value stands within what the reset gate scales; the others join the input's
    inner = torch.cat([torch.zeros_like(held[: 2 * size]), held[2 * size :]])
    given = _given(b, model, layer, below, held - inner)
    halves = [
        b.nodes("Split", each, b.ints(2 * size, size), outputs=2, axis=-1)
        for each in (given, _product(b, f"cells.{layer}.held", weight, old, inner))
    ]
    open_ = b.node("Sigmoid", b.node("Add", halves[0][0], halves[1][0]))
    reset, keep = b.nodes("Split", open_, outputs=2, axis=-1, num_outputs=2)
    new = b.node("Tanh", b.node("Add", halves[0][1], b.node("Mul", reset, halves[1][1])))
    state[hidden] = b.node("Add", new, b.node("Mul", keep, b.node("Sub", old, new)))
    return state[hidden]


CELLS: Final[dict[str, Callable[[GraphBuilder, RecurrentLanguage, int, Below, State, State], str]]] = {
    "rnn": _rnn,
    "gru": _gru,
    "lstm": _lstm,
}


def _summed(b: GraphBuilder, model: RecurrentLanguage, layer: int, below: Below, held: str) -> str:
    """What the gates add up [batch, gates * hidden], from below and from the state, biases included."""
    cells = model.cells
    weight, bias = _part(cells, "weight_hh", layer), _part(cells, "bias_hh", layer)
    if layer == 0:
        given = _given(b, model, layer, below, bias)
        return b.node("Add", _product(b, "cells.0.held", weight, held), given)
    both = torch.cat([_part(cells, "weight_ih", layer), weight], dim=1)
    bias = bias + _part(cells, "bias_ih", layer)
    return _product(b, f"cells.{layer}.both", both, b.node("Concat", below[1], held, axis=-1), bias)


def _given(b: GraphBuilder, model: RecurrentLanguage, layer: int, below: Below, more: torch.Tensor) -> str:
    """What comes from below [batch, gates * hidden], with its bias and `more`."""
    weight = _part(model.cells, "weight_ih", layer)
    bias = _part(model.cells, "bias_ih", layer) + more
    if layer > 0:
        return _product(b, f"cells.{layer}.given", weight, below[1], bias)
    tokens = model.embedding.tokens
    if tokens is None or model.vocab_size <= FOLDED:
        return b.node("Gather", _table(b, weight, tokens, bias), below[0], axis=0)
    product = b.product("cells.0.given", weight, lookup(b, "embedding.tokens", tokens, below[0]))
    return b.node("Add", product, b.vector("cells.0.given.bias", bias))


def _table(b: GraphBuilder, weight: torch.Tensor, tokens: nn.Embedding | None, bias: torch.Tensor) -> str:
    """What each token adds to the gates, [vocab, gates * hidden]."""
    if b.precision == "fp16":
        # the product of rounded numbers, as the plain form has it, and not rounded once more
        parts = [weight] if tokens is None else [weight, tokens.weight.detach()]
        weight, *others = (torch.from_numpy(restored(part.float().numpy(), "fp16")) for part in parts)
        columns = others[0] @ weight.T if others else weight.T
        return b.vector("cells.0.table", columns + bias)
    columns = weight.T.double()
    if tokens is not None:
        columns = tokens.weight.detach().double() @ columns
    return b.rows("cells.0.table", columns + bias)


def _part(module: Cells, name: str, layer: int) -> torch.Tensor:
    """A layer's weight or bias with its gates in the order of this form."""
    return gates_of(module, f"{name}_l{layer}", FAST_GATES[module.architecture])


def _top(model: RecurrentLanguage) -> str:
    return f"past.{model.cells.layers - 1}.hidden"
