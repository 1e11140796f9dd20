"""Transformers lowered for speed on onnxruntime: the plain graphs' numbers, laid out for its kernels.

The past has a fixed capacity and is written in place by GroupQueryAttention, whose rows each know their own
length. Memory lies as the products of attention read it, so nothing is turned around at every step. Logits
are computed at the places that are asked for, and the graph names the best tokens of each. With int8,
matrices are multiplied as whole numbers (`GraphBuilder.product`).
"""

from typing import Final

import numpy as np
from onnx import TensorProto

from bundle.manifest import Precision
from bundle.stepper import TensorSpec
from export.lower.attention import memory, queries
from export.lower.bounds import norm_bounds
from export.lower.builder import GraphBuilder
from export.lower.layers import count_up, layer_norm, project
from export.lower.transformer import embed, encoded, feed, output
from training.models.attention import Attention
from training.models.contract import present
from training.models.transformer import (
    Block,
    CrossBlock,
    TransformerLanguage,
    TransformerTranslator,
    key_value,
    memory_names,
    past_names,
)

MICROSOFT: Final = "com.microsoft"
BEST: Final = 16
"""How many of the likeliest tokens a graph names: enough for a beam of six and the special tokens."""

GROUPS: Final = (80, 64, 100, 125, 50, 40, 32)
"""Tokens of a group among which the best are sought, the fastest size first."""

Specs = dict[str, TensorSpec]


def language(model: TransformerLanguage, precision: Precision) -> GraphBuilder:
    """`model.onnx`."""
    b = _builder("language", model, border(model), precision)
    where = places(b)
    x = embed(b, "embedding", model.embedding, "ids", where.at)
    for index, block in enumerate(model.decoder.layers):
        name = f"decoder.blocks.{index}"
        with b.scope(name):
            x = self_attend(b, name, block, x, index, where)
            x = feed(b, name, block, x)
    head(b, model, x)
    return b


def encoder(model: TransformerTranslator, precision: Precision) -> GraphBuilder:
    """`encoder.onnx`: keys and values of the source for each layer of the decoder, keys scaled and turned."""
    b = _builder("encoder", model, encoder_border(model), precision)
    x = encoded(b, model)
    for index, cross in enumerate(model.decoder.layers):
        attention = cross.cross_attention
        key, value = memory(b, f"decoder.blocks.{index}.cross_attention", attention, x)
        scaled = b.node("Mul", key, b.constant(attention.size**-0.5, np.float32))
        names = key_value("memory", index)
        b.result(names[0], b.node("Transpose", scaled, perm=[0, 2, 3, 1]))
        b.result(names[1], b.node("Transpose", value, perm=[0, 2, 1, 3]))
    return b


def decoder(model: TransformerTranslator, precision: Precision) -> GraphBuilder:
    """`decoder.onnx`: one stretch of target tokens."""
    b = _builder("decoder", model, border(model), precision)
    where = places(b)
    mask = _hide_source(b)
    x = embed(b, "target_embedding", model.target_embedding, "ids", where.at)
    weights = ""
    for index, block in enumerate(model.decoder.layers):
        name = f"decoder.blocks.{index}"
        with b.scope(name):
            x = self_attend(b, name, block, x, index, where)
            x, weights = cross_attend(b, name, block, x, index, mask)
            x = feed(b, name, block, x)
    b.result("attention", b.node("ReduceMean", weights, b.ints(1), keepdims=0))
    head(b, model, x)
    return b


def border(model: TransformerLanguage | TransformerTranslator) -> tuple[Specs, Specs]:
    """Inputs and outputs of the step graph."""
    config = model.config
    size = config.hidden // config.heads
    best = min(BEST, model.vocab_size)
    inputs = [
        TensorSpec("ids", "int64", ("batch", "time")),
        TensorSpec("counts", "int32", ("batch",)),
        TensorSpec("lengths", "int32", ("batch",)),
        TensorSpec("picks", "int64", ("batch", "picked")),
    ]
    outputs = [
        TensorSpec("logits", "float32", ("batch", "picked", model.vocab_size)),
        TensorSpec("best.scores", "float32", ("batch", "picked", best)),
        TensorSpec("best.ids", "int64", ("batch", "picked", best)),
    ]
    for name in past_names(config.decoder_depth):
        axes = ("batch", config.heads, "capacity", size)
        inputs.append(TensorSpec(name, "float32", axes))
        outputs.append(TensorSpec(present(name), "float32", axes))
    if isinstance(model, TransformerTranslator):
        inputs += [*encoder_border(model)[1].values(), TensorSpec("source_counts", "int32", ("batch",))]
        outputs.append(TensorSpec("attention", "float32", ("batch", "time", "source")))
    return {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}


def encoder_border(model: TransformerTranslator) -> tuple[Specs, Specs]:
    """Inputs and outputs of the encoder: keys and values as attention multiplies by them."""
    heads, size = model.config.heads, model.config.hidden // model.config.heads
    inputs = [TensorSpec("ids", "int64", ("batch", "source")), TensorSpec("counts", "int32", ("batch",))]
    keys, values = ("batch", heads, size, "source"), ("batch", heads, "source", size)
    outputs = [
        TensorSpec(name, "float32", keys if name.endswith("key") else values)
        for name in memory_names(model.config.decoder_depth)
    ]
    return {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}


class Places:
    """Where the new tokens go, computed once for all layers.

    Attributes:
        at: int64 [batch, time], the position of each new token.
        last: int32 [batch], the position of each row's last real token.
        total: int32 [1], positions that the longest row may come to hold.
    """

    def __init__(self, at: str, last: str, total: str) -> None:
        self.at, self.last, self.total = at, last, total


def places(b: GraphBuilder) -> Places:
    """From the inputs `ids`, `counts` and `lengths`."""
    lengths = b.node("Cast", "lengths", to=TensorProto.INT64)
    at = b.node("Add", b.node("Unsqueeze", lengths, b.ints(1)), count_up(b, "ids", 1))
    last = b.node("Sub", b.node("Add", "lengths", "counts"), b.constant([1], np.int32))
    longest = b.node("ReduceMax", lengths, keepdims=1)
    total = b.node("Add", longest, b.node("Shape", "ids", start=1, end=2))
    return Places(at, last, b.node("Cast", total, to=TensorProto.INT32))


def self_attend(b: GraphBuilder, name: str, block: Block, x: str, index: int, where: Places) -> str:
    """x + attention over the row's past and its new tokens, which are written into the past."""
    y = layer_norm(b, f"{name}.self_norm", block.self_norm, x)
    module = block.self_attention
    packed = project(b, f"{name}.self_attention.inputs", module.inputs.weight, module.inputs.bias, y)
    past = key_value("past", index)
    y, *grown = b.nodes(
        "GroupQueryAttention",
        *(packed, "", "", *past, where.last, where.total),
        outputs=3,
        domain=MICROSOFT,
        num_heads=module.heads,
        kv_num_heads=module.heads,
    )
    for part, value in zip(past, grown, strict=True):
        b.result(present(part), value)
    return b.node("Add", x, _out(b, f"{name}.self_attention", module, y))


def cross_attend(
    b: GraphBuilder, name: str, block: CrossBlock, x: str, index: int, mask: str
) -> tuple[str, str]:
    """x + attention over the source, and the weights [batch, heads, time, source]."""
    y = layer_norm(b, f"{name}.cross_norm", block.cross_norm, x)
    module = block.cross_attention
    key, value = key_value("memory", index)
    query = b.node("Transpose", queries(b, f"{name}.cross_attention", module, y), perm=[0, 2, 1, 3])
    weights = b.node("Softmax", b.node("Add", b.node("MatMul", query, key), mask), axis=-1)
    mixed = b.node("Transpose", b.node("MatMul", weights, value), perm=[0, 2, 1, 3])
    joined = b.node("Reshape", mixed, b.ints(0, 0, module.hidden))
    return b.node("Add", x, _out(b, f"{name}.cross_attention", module, joined)), weights


def head(b: GraphBuilder, model: TransformerLanguage | TransformerTranslator, x: str) -> None:
    """Logits at the picked places, and the best tokens of each."""
    places = b.node("Unsqueeze", "picks", b.ints(2))
    x = b.node("GatherND", x, places, batch_dims=1)
    x = layer_norm(b, "decoder.norm", model.decoder.norm, x)
    if isinstance(model, TransformerTranslator):
        name, embedding = "target_embedding", model.target_embedding
    else:
        name, embedding = "embedding", model.embedding
    logits = output(b, model.output, name, embedding, x)
    b.result("logits", logits)
    # LogSoftmax over everything costs a seventh of ReduceLogSumExp
    scores, ids = best(b, b.node("LogSoftmax", logits, axis=-1), model.vocab_size)
    b.result("best.scores", scores)
    b.result("best.ids", ids)


def best(b: GraphBuilder, scores: str, vocab: int) -> list[str]:
    """The `BEST` highest of scores [batch, picked, vocab] and their ids, both [batch, picked, BEST].

    The best of all lie in the groups with the best heads: TopK then reads a thousand scores of a row, not
    thirty thousand. Equal scores go to the smaller id, as TopK does it.
    """
    count = min(BEST, vocab)
    size = next((size for size in GROUPS if vocab % size == 0 and vocab // size > 4 * count), 0)
    if not size:
        return b.nodes("TopK", scores, b.ints(count), outputs=2, axis=-1)
    groups = b.node("Reshape", scores, b.ints(0, 0, vocab // size, size))
    heads = b.node("ReduceMax", groups, b.ints(-1), keepdims=0)
    _, chosen = b.nodes("TopK", heads, b.ints(count), outputs=2, axis=-1)
    _, order = b.nodes("TopK", chosen, b.ints(count), outputs=2, axis=-1, largest=0)
    chosen = b.node("GatherElements", chosen, order, axis=-1)
    members = b.node("GatherND", groups, b.node("Unsqueeze", chosen, b.ints(3)), batch_dims=2)
    found, places = b.nodes(
        "TopK", b.node("Reshape", members, b.ints(0, 0, count * size)), b.ints(count), outputs=2, axis=-1
    )
    width = b.scalar(size)
    group = b.node("GatherElements", chosen, b.node("Div", places, width), axis=-1)
    ids = b.node("Add", b.node("Mul", group, width), b.node("Mod", places, width))
    return [found, ids]


def _builder(
    name: str,
    model: TransformerLanguage | TransformerTranslator,
    border: tuple[Specs, Specs],
    precision: Precision,
) -> GraphBuilder:
    """A graph that multiplies int8 as whole numbers, and then knows how large they become behind norms."""
    bounds = norm_bounds(model) if precision == "int8" else None
    return GraphBuilder(name, *border, precision, whole=True, norm_bounds=bounds)


def _out(b: GraphBuilder, name: str, module: Attention, joined: str) -> str:
    return project(b, f"{name}.output", module.output.weight, module.output.bias, joined)


def _hide_source(b: GraphBuilder) -> str:
    """float32 [batch, 1, 1, source], to add to scores: minus infinity beyond each row's source."""
    real = b.node("Unsqueeze", b.node("Cast", "source_counts", to=TensorProto.INT64), b.ints(1))
    seen = b.node("Less", count_up(b, "memory.0.key", 3), real)
    zero, minus = b.constant(0, np.float32), b.constant(-np.inf, np.float32)
    return b.node("Unsqueeze", b.node("Where", seen, zero, minus), b.ints(1, 2))
