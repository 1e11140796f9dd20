"""Multi-head attention as plain operators, and the bookkeeping of a past that grows.

Rows share a batch with longer ones, so the same row meets axes of different length. Its numbers must not
change with them: onnxruntime's product of one row with a matrix adds in groups of four, and a group that is
cut short by the end of the axis adds in another order. The past is therefore always a multiple of `BLOCK`
long; entries that are hidden weigh exactly zero and change no bit. (`bundle.stepper` does the same for the
source.)
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from onnx import TensorProto

from export.lower.builder import GraphBuilder
from export.lower.layers import count_up, hide, project
from training.models.attention import Attention

#: Entries that the kernels add as one group.
BLOCK: Final = 4


@dataclass(frozen=True)
class Growing:
    """Where new tokens go, computed once for all layers.

    Attributes:
        at: int64 [batch, time], the position of each new token.
        indices: int64 [batch, time, 2], (row, position) for ScatterND.
        room: float32 [batch, extra, heads, size] of zeros; past + extra is past + time rounded up to `BLOCK`.
        mask: float32 [batch, 1, time, past + extra], to add to scores: a token sees what is not after it.
    """

    at: str
    indices: str
    room: str
    mask: str


def growing(b: GraphBuilder, past: str) -> Growing:
    """From inputs `ids`, `lengths` and the name of any `past` input."""
    held = b.node("Shape", past, start=1, end=2)
    needed = b.node("Add", held, b.node("Shape", "ids", start=1, end=2))
    blocks = b.node("Div", b.node("Add", needed, b.ints(BLOCK - 1)), b.ints(BLOCK))
    size = b.node("Mul", blocks, b.ints(BLOCK))
    shape = (
        b.node("Shape", "ids", start=0, end=1),
        b.node("Sub", size, held),
        b.node("Shape", past, start=2, end=4),
    )
    room = b.node("ConstantOfShape", b.node("Concat", *shape, axis=0))
    steps = count_up(b, "ids", 1)
    lengths = b.node("Unsqueeze", b.node("Cast", "lengths", to=TensorProto.INT64), b.ints(1))
    at = b.node("Add", lengths, steps)
    row = b.node("Unsqueeze", count_up(b, "ids", 0), b.ints(1))
    rows = b.node("Expand", row, b.node("Shape", "ids"))
    pair = [b.node("Unsqueeze", part, b.ints(2)) for part in (rows, at)]
    entries = b.node("Range", b.scalar(0), b.node("Squeeze", size, b.ints(0)), b.scalar(1))
    seen = b.node("LessOrEqual", entries, b.node("Unsqueeze", at, b.ints(2)))
    mask = b.node("Unsqueeze", hide(b, seen), b.ints(1))
    return Growing(at, b.node("Concat", *pair, axis=2), room, mask)


def grown(b: GraphBuilder, past: str, new: str, where: Growing) -> str:
    """[batch, past + extra, heads, size] with the new entries of each row right after its own."""
    return b.node("ScatterND", b.node("Concat", past, where.room, axis=1), where.indices, new)


def _part(b: GraphBuilder, name: str, module: Attention, x: str, first: int, last: int) -> list[str]:
    """Some of query, key and value (0, 1, 2; `last` excluded) of [batch, n, hidden], in one product.

    Returns:
        Each [batch, n, heads, size].
    """
    rows = slice(first * module.hidden, last * module.hidden)
    label = f"{name}.inputs" if (first, last) == (0, 3) else f"{name}.inputs.{first}:{last}"
    packed = project(b, label, module.inputs.weight[rows], module.inputs.bias[rows], x)
    shape = b.ints(0, 0, module.heads, module.size)
    if last - first == 1:
        return [b.node("Reshape", packed, shape)]
    parts = b.nodes("Split", packed, outputs=last - first, axis=-1, num_outputs=last - first)
    return [b.node("Reshape", part, shape) for part in parts]


def projections(b: GraphBuilder, name: str, module: Attention, x: str) -> list[str]:
    """Query, key and value of one sequence."""
    return _part(b, name, module, x, 0, 3)


def queries(b: GraphBuilder, name: str, module: Attention, x: str) -> str:
    """Query alone."""
    return _part(b, name, module, x, 0, 1)[0]


def memory(b: GraphBuilder, name: str, module: Attention, x: str) -> list[str]:
    """Key and value of an encoded source."""
    return _part(b, name, module, x, 1, 3)


def attend(
    b: GraphBuilder, name: str, module: Attention, parts: tuple[str, str, str], mask: str
) -> tuple[str, str]:
    """Attend and project.

    Args:
        parts: query [batch, time, heads, size], key and value [batch, n, heads, size].
        mask: float32, added to the scores [batch, heads, time, n].

    Returns:
        [batch, time, hidden] and the weights [batch, heads, time, n].
    """
    query, key, value = parts
    scaled = b.node("Mul", query, b.constant(module.size**-0.5, np.float32))
    rows = b.node("Transpose", scaled, perm=[0, 2, 1, 3])
    scores = b.node("MatMul", rows, b.node("Transpose", key, perm=[0, 2, 3, 1]))
    weights = b.node("Softmax", b.node("Add", scores, mask), axis=-1)
    mixed = b.node("MatMul", weights, b.node("Transpose", value, perm=[0, 2, 1, 3]))
    joined = b.node("Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), b.ints(0, 0, module.hidden))
    return project(b, f"{name}.output", module.output.weight, module.output.bias, joined), weights
