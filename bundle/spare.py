"""Arrays with more rows than a batch has, so that rows come and go while the others stay where they are."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bundle.tensors import Array


class Extent(NamedTuple):
    """How much of a row is read: the first entries of one axis, counted with that of the rows; None = all."""

    axis: int | None
    used: int = 0

    @property
    def slices(self) -> tuple[slice, ...]:
        """Of a row, what is read."""
        return () if self.axis is None else (*(slice(None),) * (self.axis - 1), slice(self.used))


class Spare:
    """Arrays by the names of a state's tensors, which are their first rows.

    One state at a time may write behind its own rows: who joins it to others, or selects from it, uses it up.
    What is read no more is not wiped: a graph does not see past the length of a row.

    Args:
        rows: that are needed. There is room for a quarter more: under load as many come as go, but not at the
            same step.
        like: of what type the arrays are, and how long a row.
    """

    def __init__(self, rows: int, like: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
        room = rows + rows // 4 + 4
        # zeros: a graph multiplies what it does not see by nought, and nought times NaN is NaN
        self.arrays: dict[str, Array] = {
            name: np.zeros((room, *shape), dtype) for name, (dtype, shape) in like.items()
        }

    def holds(self, rows: int, extents: Mapping[str, Extent]) -> bool:
        """Whether there is room for that many rows, each as long as that."""
        return all(
            rows <= len(self.arrays[name]) and (axis is None or used <= self.arrays[name].shape[axis])
            for name, (axis, used) in extents.items()
        )

    def put(self, start: int, tensors: Mapping[str, Array], extents: Mapping[str, Extent]) -> None:
        """Write rows from ``start`` on."""
        for name, array in tensors.items():
            read = extents[name].slices
            self.arrays[name][(slice(start, start + len(array)), *read)] = array[(slice(None), *read)]

    def first(self, rows: int) -> dict[str, Array]:
        """The first rows of each array."""
        return {name: array[:rows] for name, array in self.arrays.items()}
