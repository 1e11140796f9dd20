"""Transformers as plain operators, with a past that grows."""

import numpy as np
from onnx import TensorProto

from bundle.manifest import Precision
from export.lower.attention import Growing, attend, growing, grown, memory, projections, queries
from export.lower.builder import GraphBuilder
from export.lower.layers import count_up, hide_beyond, layer_norm, linear, lookup, tied
from training.models.contract import present
from training.models.transformer import (
    Block,
    CrossBlock,
    Embedding,
    FeedForward,
    Output,
    TransformerLanguage,
    TransformerTranslator,
    key_value,
)


def language(model: TransformerLanguage, precision: Precision) -> GraphBuilder:
    """`model.onnx`."""
    b = GraphBuilder("language", model.step_inputs, model.step_outputs, precision)
    where = growing(b, "past.0.key")
    x = embed(b, "embedding", model.embedding, "ids", where.at)
    for index, block in enumerate(model.decoder.layers):
        name = f"decoder.blocks.{index}"
        with b.scope(name):
            x = self_attend(b, name, block, x, index, where)
            x = feed(b, name, block, x)
    x = layer_norm(b, "decoder.norm", model.decoder.norm, x)
    b.result("logits", output(b, model.output, "embedding", model.embedding, x))
    return b


def encoder(model: TransformerTranslator, precision: Precision) -> GraphBuilder:
    """`encoder.onnx`: keys and values of the source for each layer of the decoder."""
    b = GraphBuilder("encoder", model.encode_inputs, model.encode_outputs, precision)
    x = encoded(b, model)
    for index, cross in enumerate(model.decoder.layers):
        path = f"decoder.blocks.{index}.cross_attention"
        for name, value in zip(
            key_value("memory", index), memory(b, path, cross.cross_attention, x), strict=True
        ):
            b.result(name, value)
    return b


def encoded(b: GraphBuilder, model: TransformerTranslator) -> str:
    """The source as the encoder leaves it, [batch, source, hidden], from the inputs `ids` and `counts`."""
    mask = hide_beyond(b, "counts", "ids", axes=(1, 2))
    at = b.node("Unsqueeze", count_up(b, "ids", 1), b.ints(0))
    x = embed(b, "source_embedding", model.source_embedding, "ids", at)
    for index, block in enumerate(model.encoder.layers):
        name = f"encoder.blocks.{index}"
        with b.scope(name):
            y = layer_norm(b, f"{name}.self_norm", block.self_norm, x)
            query, key, value = projections(b, f"{name}.self_attention", block.self_attention, y)
            y, _ = attend(b, f"{name}.self_attention", block.self_attention, (query, key, value), mask)
            x = feed(b, name, block, b.node("Add", x, y))
    return layer_norm(b, "encoder.norm", model.encoder.norm, x)


def decoder(model: TransformerTranslator, precision: Precision) -> GraphBuilder:
    """`decoder.onnx`: one stretch of target tokens."""
    b = GraphBuilder("decoder", model.step_inputs, model.step_outputs, precision)
    where = growing(b, "past.0.key")
    mask = hide_beyond(b, "source_counts", "memory.0.key", axes=(1, 2))
    x = embed(b, "target_embedding", model.target_embedding, "ids", where.at)
    weights = ""
    for index, block in enumerate(model.decoder.layers):
        name = f"decoder.blocks.{index}"
        with b.scope(name):
            x = self_attend(b, name, block, x, index, where)
            x, weights = cross_attend(b, name, block, x, index, mask)
            x = feed(b, name, block, x)
    b.result("attention", b.node("ReduceMean", weights, b.ints(1), keepdims=0))
    x = layer_norm(b, "decoder.norm", model.decoder.norm, x)
    b.result("logits", output(b, model.output, "target_embedding", model.target_embedding, x))
    return b


def embed(b: GraphBuilder, name: str, embedding: Embedding, ids: str, at: str) -> str:
    """Token vectors plus positions, [batch, n, hidden]."""
    x = lookup(b, f"{name}.tokens", embedding.tokens, ids)
    if embedding.positions is not None:
        # Padding may stand beyond the table; real tokens are kept within it by the bundle's limits.
        last = b.scalar(embedding.positions.num_embeddings - 1)
        known = b.node("Min", at, last)
        return b.node("Add", x, lookup(b, f"{name}.positions", embedding.positions, known))
    x = b.node("Mul", x, b.constant(embedding.scale, np.float32))
    steps = b.node("Unsqueeze", b.node("Cast", at, to=TensorProto.FLOAT), b.ints(2))
    angle = b.node("Mul", steps, b.vector(f"{name}.frequencies", embedding.frequencies))
    return b.node("Add", x, b.node("Concat", b.node("Sin", angle), b.node("Cos", angle), axis=-1))


def self_attend(b: GraphBuilder, name: str, block: Block, x: str, index: int, where: Growing) -> str:
    """x + attention over the row's past and its new tokens; declares the layer's `present`."""
    y = layer_norm(b, f"{name}.self_norm", block.self_norm, x)
    query, *new = projections(b, f"{name}.self_attention", block.self_attention, y)
    names = key_value("past", index)
    key, value = (grown(b, past, part, where) for past, part in zip(names, new, strict=True))
    for past, part in zip(names, (key, value), strict=True):
        b.result(present(past), part)
    y, _ = attend(b, f"{name}.self_attention", block.self_attention, (query, key, value), where.mask)
    return b.node("Add", x, y)


def cross_attend(
    b: GraphBuilder, name: str, block: CrossBlock, x: str, index: int, mask: str
) -> tuple[str, str]:
    """x + attention over the source, and the weights."""
    y = layer_norm(b, f"{name}.cross_norm", block.cross_norm, x)
    query = queries(b, f"{name}.cross_attention", block.cross_attention, y)
    parts = (query, *key_value("memory", index))
    y, weights = attend(b, f"{name}.cross_attention", block.cross_attention, parts, mask)
    return b.node("Add", x, y), weights


def feed(b: GraphBuilder, name: str, block: Block, x: str) -> str:
    """x + the feed-forward half."""
    y = layer_norm(b, f"{name}.feedforward_norm", block.feedforward_norm, x)
    return b.node("Add", x, inner(b, f"{name}.feedforward", block.feedforward, y))


def inner(b: GraphBuilder, name: str, module: FeedForward, x: str) -> str:
    """Up, activation, down."""
    up = linear(b, f"{name}.up", module.up, x)
    active = b.node("Gelu", up) if module.activation == "gelu" else b.positive(b.node("Relu", up))
    return linear(b, f"{name}.down", module.down, active)


def output(b: GraphBuilder, module: Output, name: str, embedding: Embedding, x: str) -> str:
    """Logits [batch, time, vocab]."""
    if module.free is not None:
        return linear(b, "output.free", module.free, x)
    return tied(b, f"{name}.tokens", embedding.tokens, x)
