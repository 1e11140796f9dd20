"""State that stays where the graph computes: tensors of the device, and rows of them arranged there.

Nothing here knows the runtime. What it hands over is a value with a shape that can be copied to the host, and
what it is asked for is to run a graph of one operator.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bundle.node import node
from bundle.tensors import Array, Tensor, Used

Run = Callable[[Mapping[str, Tensor]], "Resident"]


class Value(Protocol):
    """A tensor as the runtime has it; its memory is freed with the last reference to it."""

    def shape(self) -> Sequence[int]:
        """Entries along each axis."""

    def numpy(self) -> Array:
        """Its contents, on the host."""


class Resident:
    """A tensor in the memory of the device."""

    __slots__ = ("shape", "value")

    def __init__(self, value: Value) -> None:
        self.value = value
        self.shape = tuple(value.shape())

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """A copy on the host, made anew each time: who reads it is on the slow path anyway."""
        array = self.value.numpy()
        return array if dtype is None else array.astype(dtype)


class DeviceRows:
    """Rows of float32 tensors of the device, by graphs of one operator each that run there.

    Args:
        opened: opens such a graph.
    """

    def __init__(self, opened: Callable[[bytes], Run]) -> None:
        self._gather = opened(node("Gather", [("tensor", "float32"), ("rows", "int64")], axis=0))
        self._slice = opened(
            node("Slice", [("tensor", "float32"), ("starts", "int64"), ("ends", "int64"), ("axes", "int64")])
        )
        self._pad = opened(
            node("Pad", [("tensor", "float32"), ("pads", "int64"), ("", "float32"), ("axes", "int64")])
        )
        self._concat = opened(node("Concat", [("first", "float32"), ("second", "float32")], axis=0))

    def cut(self, tensor: Tensor, axis: int, length: int) -> Tensor:
        """See :class:`bundle.tensors.RowOps`."""
        ends, axes = _numbers(length), _numbers(axis)
        return self._slice({"tensor": tensor, "starts": _numbers(0), "ends": ends, "axes": axes})

    def take(self, tensor: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """See :class:`bundle.tensors.RowOps`."""
        return self._gather({"tensor": tensor, "rows": np.asarray(rows, np.int64)})

    def reorder(
        self, tensors: Mapping[str, Tensor], rows: NDArray[np.int64], used: Mapping[str, Used]
    ) -> dict[str, Tensor]:
        """Never in place: an operator that read what it has written would mix the rows up."""
        return {name: self.take(tensor, rows) for name, tensor in tensors.items()}

    def stack(self, tensors: Sequence[Tensor], axis: int | None) -> Tensor:
        """See :class:`bundle.tensors.RowOps`."""
        if axis is not None:
            longest = max(tensor.shape[axis] for tensor in tensors)
            tensors = [self._padded(tensor, axis, longest) for tensor in tensors]
        return reduce(lambda first, second: self._concat({"first": first, "second": second}), tensors)

    def _padded(self, tensor: Tensor, axis: int, length: int) -> Tensor:
        missing = length - tensor.shape[axis]
        if not missing:
            return tensor
        return self._pad({"tensor": tensor, "pads": _numbers(0, missing), "axes": _numbers(axis)})


def _numbers(*values: int) -> Array:
    return np.array(values, np.int64)
