"""A fast graph read as a network: what `export/lower/fast.py` has lowered, recognised node by node.

A graph of any other shape is no fault: `read_network` says that it is `Unlike`, and onnxruntime runs it.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bundle.native.arrays import address, aligned
from bundle.native.library import Block, Network, Norm, Product
from bundle.stored import Node, Stored

PANEL, LANES = 64, 16
"""As in kernels.h."""

_SIZES = {16, 32, 48, 64, 96, 128}
"""Of a head."""

SIGNED: Final = 128
"""What stands for nought in uint8 where numbers have a sign."""

_START = "Cast Unsqueeze Shape Squeeze Range Add Add Sub ReduceMax Shape Add Cast"
_HIDE_SOURCE = "Cast Unsqueeze Shape Squeeze Range Less Where Unsqueeze"
_START_OF_ENCODER = f"{_HIDE_SOURCE} Shape Squeeze Range Unsqueeze"
_LOOK_UP = "Gather Cast Gather Unsqueeze Mul"
_SINES = "Mul Cast Unsqueeze Mul Sin Cos Concat Add"
_NORMED = "LayerNormalization QuantizeLinear MatMulIntegerToFloat"
_DIVIDED = "ReduceMax Max Div QuantizeLinear MatMulIntegerToFloat Mul Add Add"
_HEADS = "Reshape Transpose MatMul Add Softmax MatMul Transpose Reshape"
_SPLIT = "Split Reshape Reshape Reshape Mul"
_HEADS_OF_TEXT = "Transpose Transpose MatMul Add Softmax Transpose MatMul Transpose Reshape"
_REMEMBER = "MatMulIntegerToFloat Split Reshape Reshape Mul Transpose Transpose"
BEST = (
    "TopK",
    "Reshape ReduceMax TopK TopK GatherElements Unsqueeze GatherND Reshape TopK"
    " Div GatherElements Mul Mod Add",
)


class Unlike(Exception):
    """The graph is not one that the kernels know."""


class Reader:
    """Takes nodes in order, and keeps alive what the structures point to.

    Attributes:
        frequencies: of the sines that stand for positions, `[hidden / 2]`; None where positions were learned.
        epsilon: of the layer norms.
    """

    def __init__(self, stored: Stored, pack: Any) -> None:
        self.stored = stored
        self.kept: list[Any] = []
        self.frequencies: NDArray[np.float32] | None = None
        self.epsilon: float | None = None
        self._pack = pack
        self._left = [*reversed(stored.nodes)]

    def take(self, operators: str) -> list[Node]:
        """The next nodes, which are these operators."""
        names = operators.split()
        found = self._left[: -len(names) - 1 : -1]
        if [node.operator for node in found] != names:
            raise Unlike(f"{operators} is not what comes next")
        del self._left[-len(names) :]
        return found

    def comes(self, *operators: str) -> bool:
        """Whether these are the next nodes."""
        return tuple(node.operator for node in self._left[: -len(operators) - 1 : -1]) == operators

    @property
    def done(self) -> bool:
        return not self._left

    def weight(self, name: str, dtype: type[np.generic], *shape: int) -> NDArray[Any]:
        """A weight of that type and shape (-1 = any size)."""
        array = self.stored.weights.get(name)
        if array is None or array.dtype != dtype or len(array.shape) != len(shape):
            raise Unlike(f"{name} is not {np.dtype(dtype)} with {len(shape)} axes")
        if any(wanted not in (-1, size) for wanted, size in zip(shape, array.shape, strict=True)):
            raise Unlike(f"{name} is {array.shape}, not {shape}")
        return array

    def number(self, name: str, dtype: type[np.generic] = np.float32) -> float:
        """A constant without axes."""
        return float(self.weight(name, dtype).item())

    def floats(self, name: str, size: int, room: int = 0) -> int:
        """Where a vector lies, followed by noughts up to `room` numbers."""
        array = np.zeros(max(size, room), np.float32)
        array[:size] = self.weight(name, np.float32, size)
        return self.keep(array)

    def keep(self, array: NDArray[Any]) -> int:
        """The address of an array that will not move."""
        self.kept.append(array)
        return address(array)

    def norm(self, node: Node, rounding: Node, hidden: int) -> Any:
        """A layer norm and the rounding behind it."""
        unit = self.number(rounding.inputs[1])
        if self.number(rounding.inputs[2], np.uint8) != SIGNED or not 0 < unit < math.inf:
            raise Unlike("a norm is not rounded around 128")
        epsilon = node.attributes.get("epsilon", 1e-5)
        if self.epsilon not in (None, epsilon):
            raise Unlike("layer norms differ")
        self.epsilon = epsilon
        return Norm(self.floats(node.inputs[1], hidden), self.floats(node.inputs[2], hidden), 1 / unit)

    def product(self, node: Node, inputs: int, outputs: int, bias: str = "", steps: int = 0) -> Any:
        """The product of a node, whose matrix is [inputs, outputs].

        Args:
            bias: where it is added by a node of its own.
            steps: the numbers of each row are divided by their largest and rounded to so many steps; 0 = they
                are rounded with one unit, around 128.
        """
        name, unit, scale, zero, *rest = node.inputs[1:]
        value = self.number(unit)
        nought = 0 if steps == 255 else SIGNED
        if self.number(zero, np.uint8) != nought or (
            steps and not math.isclose(value, 1 / steps, rel_tol=1e-6)
        ):
            raise Unlike(f"the input of {name} is not rounded to {steps} steps")
        return self.matrix(
            name, scale, value, inputs, outputs, bias or (rest[1] if len(rest) == 2 else ""), nought
        )

    def matrix(
        self,
        name: str,
        scale: str,
        unit: float,
        inputs: int,
        outputs: int,
        bias: str,
        zero: int,
        *,
        tied: bool = False,
    ) -> Any:
        """A matrix [inputs, outputs], or a table [outputs, inputs] where tied, packed for the kernels."""
        table = self.weight(name, np.int8, *((outputs, inputs) if tied else (inputs, outputs)))
        room = -(-outputs // PANEL) * PANEL
        packed, offset = aligned(room * inputs), np.empty(room, np.int32)
        strides = table.strides[::-1] if tied else table.strides
        self._pack(address(table), *strides, inputs, outputs, zero, address(packed), address(offset))
        scales = np.zeros(room, np.float32)
        scales[:outputs] = self.weight(scale, np.float32, outputs) * np.float32(unit)
        biases = self.floats(bias, outputs, room) if bias else self.keep(np.zeros(room, np.float32))
        return Product(self.keep(packed), self.keep(offset), self.keep(scales), biases, inputs, outputs)


def read_decoder(reader: Reader) -> Any:
    """The network of a language model or of a translator's decoder.

    Raises:
        Unlike: it is not one that the kernels know.
    """
    shapes = reader.stored.inputs
    depth = sum(name.startswith("past.") for name in shapes) // 2
    heads, size = _heads(shapes.get("past.0.key", ()), 1, 3)
    net = Network(heads=heads, hidden=heads * size, depth=depth, has_source="source_counts" in shapes)
    reader.take(_START)
    if net.has_source:
        reader.take(_HIDE_SOURCE)
    _embed(reader, net)
    blocks = [_block(reader, net) for _ in range(depth)]
    _keep_blocks(reader, net, blocks)
    if net.has_source:
        reader.take("ReduceMean")
    reader.take("Unsqueeze GatherND")
    (norm,) = reader.take("LayerNormalization")
    tied = reader.comes("Transpose")
    if tied:
        (turned,) = reader.take("Transpose")
    rounding, product = reader.take("QuantizeLinear MatMulIntegerToFloat")
    net.last = reader.norm(norm, rounding, net.hidden)
    vocab = reader.stored.outputs["logits"][-1]
    if vocab != net.vocab:
        raise Unlike("the vocabularies differ")
    if tied:
        unit, scale = reader.number(product.inputs[2]), product.inputs[3]
        net.output = reader.matrix(
            turned.inputs[0], scale, unit, net.hidden, net.vocab, "", SIGNED, tied=True
        )
    else:
        net.output = reader.product(product, net.hidden, net.vocab)
    reader.take("LogSoftmax")
    reader.take(BEST[0] if reader.comes("TopK") else BEST[1])
    _finish(reader, net)
    return net


def read_encoder(reader: Reader) -> Any:
    """The network of a translator's encoder.

    Raises:
        Unlike: it is not one that the kernels know.
    """
    shapes = reader.stored.outputs
    heads, size = _heads(shapes.get("memory.0.key", ()), 1, 2)
    net = Network(heads=heads, hidden=heads * size, memory_depth=len(shapes) // 2)
    reader.take(_START_OF_ENCODER)
    _embed(reader, net)
    blocks = []
    while not reader.comes("LayerNormalization", "QuantizeLinear", *_REMEMBER.split()):
        blocks.append(_block_of_encoder(reader, net))
    net.depth = len(blocks)
    _keep_blocks(reader, net, blocks)
    norm, rounding = reader.take("LayerNormalization QuantizeLinear")
    net.last = reader.norm(norm, rounding, net.hidden)
    products = [
        reader.product(reader.take(_REMEMBER)[0], net.hidden, 2 * net.hidden) for _ in range(net.memory_depth)
    ]
    memory = (Product * len(products))(*products)
    reader.kept.append(memory)
    net.memory = memory
    _finish(reader, net)
    return net


def _finish(reader: Reader, net: Any) -> None:
    if not reader.done:
        raise Unlike("there are more nodes")
    net.epsilon = reader.epsilon


def _heads(axes: Sequence[str | int], first: int, second: int) -> tuple[int, int]:
    """How many heads, and their size."""
    found = [axes[place] for place in (first, second)] if len(axes) == 4 else [0, 0]
    heads, size = (axis if isinstance(axis, int) else 0 for axis in found)
    if not 0 < heads <= 1024 or size not in _SIZES:
        raise Unlike(f"{heads} heads of {size}")
    return heads, size


def _keep_blocks(reader: Reader, net: Any, blocks: list[Any]) -> None:
    array = (Block * len(blocks))(*blocks)
    reader.kept.append(array)
    net.blocks = array


def _embed(reader: Reader, net: Any) -> None:
    looked, *_, scales, _, _ = reader.take(_LOOK_UP)
    tokens = reader.weight(looked.inputs[0], np.int8, -1, net.hidden)
    net.vocab, net.token_scale = len(tokens), 1.0
    net.tokens = reader.keep(np.ascontiguousarray(tokens))
    net.token_scales = reader.floats(scales.inputs[0], net.vocab)
    if reader.comes("Min"):
        (least,) = reader.take("Min")
        looked, *_, scales, _, _ = reader.take(_LOOK_UP)
        reader.take("Add")
        table = reader.weight(looked.inputs[0], np.int8, -1, net.hidden)
        if reader.number(least.inputs[1], np.int64) != len(table) - 1:
            raise Unlike("positions end before their table")
        steps = reader.weight(scales.inputs[0], np.float32, len(table))
        set_positions(reader.kept, net, table * steps[:, None])
        net.last_position = len(table) - 1
        return
    scaled, *_, angle, _, _, _, _ = reader.take(_SINES)
    net.token_scale = reader.number(scaled.inputs[1])
    reader.frequencies = reader.weight(angle.inputs[1], np.float32, net.hidden // 2)
    net.last_position = 2**31 - 1


def set_positions(kept: list[Any], net: Any, table: NDArray[np.float32]) -> None:
    """Gives the network the vectors of its positions."""
    kept.append(np.ascontiguousarray(table, np.float32))
    net.positions, net.position_count = address(kept[-1]), len(table)


def _own(reader: Reader, inputs: int, outputs: int, steps: int) -> Any:
    """The product of rows that are divided by their own largest number, and the bias added behind it."""
    *_, product, _, bias, _ = reader.take(_DIVIDED)
    return reader.product(product, inputs, outputs, bias=bias.inputs[1], steps=steps)


def _feed(reader: Reader, net: Any, block: Any) -> None:
    norm, rounding, product = reader.take(_NORMED)
    inner = reader.weight(product.inputs[1], np.int8, net.hidden, -1).shape[1]
    gelu = reader.comes("Gelu")
    if inner % LANES or (net.inner and (net.inner, net.gelu) != (inner, gelu)):
        raise Unlike(f"a feed-forward half of {inner}")
    net.inner, net.gelu = inner, gelu
    block.feed_norm = reader.norm(norm, rounding, net.hidden)
    block.up = reader.product(product, net.hidden, net.inner)
    reader.take("Gelu Abs" if gelu else "Relu")
    block.down = _own(reader, net.inner, net.hidden, 127 if net.gelu else 255)


def _normed(reader: Reader, net: Any, outputs: int) -> tuple[Any, Any]:
    norm, rounding, product = reader.take(_NORMED)
    return reader.norm(norm, rounding, net.hidden), reader.product(product, net.hidden, outputs)


def _block(reader: Reader, net: Any) -> Any:
    block, hidden = Block(), net.hidden
    block.self_norm, block.inputs = _normed(reader, net, 3 * hidden)
    grouped, _ = reader.take("GroupQueryAttention Abs")
    if grouped.attributes != {"num_heads": net.heads, "kv_num_heads": net.heads}:
        raise Unlike(f"attention is told {grouped.attributes}")
    block.self_output = _own(reader, hidden, hidden, 127)
    if net.has_source:
        block.cross_norm, block.query = _normed(reader, net, hidden)
        reader.take(f"{_HEADS} Abs")
        block.cross_output = _own(reader, hidden, hidden, 127)
    _feed(reader, net, block)
    return block


def _block_of_encoder(reader: Reader, net: Any) -> Any:
    block, hidden = Block(), net.hidden
    block.self_norm, block.inputs = _normed(reader, net, 3 * hidden)
    *_, scaled = reader.take(_SPLIT)
    if not math.isclose(reader.number(scaled.inputs[1]), (hidden // net.heads) ** -0.5, rel_tol=1e-6):
        raise Unlike("attention is scaled otherwise")
    reader.take(f"{_HEADS_OF_TEXT} Abs")
    block.self_output = _own(reader, hidden, hidden, 127)
    _feed(reader, net, block)
    return block
