"""The pieces that several architectures share, as nodes."""

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from export.lower.builder import GraphBuilder


def linear(b: GraphBuilder, name: str, module: nn.Linear, x: str) -> str:
    """x W' + b over the last axis."""
    return project(b, name, module.weight, module.bias, x)


def project(b: GraphBuilder, name: str, weight: torch.Tensor, bias: torch.Tensor | None, x: str) -> str:
    """`linear` with a weight [out, in] of its own, for instance some rows of a packed one."""
    return b.product(f"{name}.weight", weight, x, "" if bias is None else b.vector(f"{name}.bias", bias))


def tied(b: GraphBuilder, name: str, table: nn.Embedding, x: str) -> str:
    """Logits by the embedding table, transposed; the table is stored once."""
    return b.tied_product(f"{name}.weight", table.weight, x)


def lookup(b: GraphBuilder, name: str, table: nn.Embedding, ids: str) -> str:
    """Vectors of ids."""
    return b.lookup(f"{name}.weight", table.weight, ids)


def layer_norm(b: GraphBuilder, name: str, module: nn.LayerNorm, x: str) -> str:
    """Normalise the last axis; how large its numbers become is known where the builder was told."""
    weight, bias = b.vector(f"{name}.weight", module.weight), b.vector(f"{name}.bias", module.bias)
    y = b.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=module.eps)
    return b.within(y, b.norm_bounds[name]) if name in b.norm_bounds else y


def count_up(b: GraphBuilder, value: str, axis: int) -> str:
    """int64 [n]: 0, 1, ... along an axis of a value."""
    size = b.node("Squeeze", b.node("Shape", value, start=axis, end=axis + 1), b.ints(0))
    return b.node("Range", b.scalar(0), size, b.scalar(1))


def hide(b: GraphBuilder, visible: str) -> str:
    """What is added to scores: 0 where bool `visible`, minus infinity elsewhere."""
    return b.node("Where", visible, b.constant(0, np.float32), b.constant(-np.inf, np.float32))


def hide_beyond(b: GraphBuilder, counts: str, value: str, axes: tuple[int, ...]) -> str:
    """A mask to add to scores over axis 1 of `value`, for right-padded rows.

    Args:
        counts: int32 [batch], real entries of each row.
        value: its axis 1 is the one counted.
        axes: where to put axes of one in [batch, n].
    """
    real = b.node("Unsqueeze", b.node("Cast", counts, to=TensorProto.INT64), b.ints(1))
    return b.node("Unsqueeze", hide(b, b.node("Less", count_up(b, value, 1), real)), b.ints(*axes))
