"""What a state is made of, and how rows of it are cut, chosen and put together, on the host or elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Used = tuple[int | None, int]
"""What of a tensor is read: the first so many entries of an axis, counted with that of the rows; None = all
there is."""


class Tensor(Protocol):
    """An array, or what lies elsewhere and can be read as one (which copies it to the host)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Entries along each axis."""

    def __len__(self) -> int: ...

    def __array__(self) -> Array: ...


class RowOps(Protocol):
    """What rows of tensors undergo, done where they lie. Every method copies numbers and changes none."""

    def cut(self, tensor: Tensor, axis: int, length: int) -> Tensor:
        """The first ``length`` entries of an axis that has more."""

    def take(self, tensor: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Rows in that order."""

    def reorder(
        self, tensors: Mapping[str, Tensor], rows: NDArray[np.int64], used: Mapping[str, Used]
    ) -> dict[str, Tensor]:
        """:meth:`take` for each, in place where that is possible; what is `used` of each tensor counts."""

    def stack(self, tensors: Sequence[Tensor], axis: int | None) -> Tensor:
        """All rows of several tensors; along `axis` the shorter ones are padded with zeros on the right."""


class HostRows:
    """Rows of numpy arrays."""

    def cut(self, tensor: Tensor, axis: int, length: int) -> Array:
        """A view."""
        return np.asarray(tensor)[(slice(None),) * axis + (slice(length),)]

    def take(self, tensor: Tensor, rows: NDArray[np.int64]) -> Array:
        """A copy."""
        taken: Array = np.asarray(tensor)[rows]
        return taken

    def reorder(
        self, tensors: Mapping[str, Tensor], rows: NDArray[np.int64], used: Mapping[str, Used]
    ) -> dict[str, Tensor]:
        """Only rows that move are copied, and in place where there is room: reordering the beams of a large
        batch would otherwise copy everything that it remembers, at every step. Fewer rows are a view."""
        order = rows.tolist()
        moved = [place for place, row in enumerate(order) if row != place]
        # rows moved one after the other could overwrite what is still to be copied; one alone is cheaper
        to: Any = moved[0] if len(moved) == 1 else np.array(moved, np.intp)
        origin: Any = order[moved[0]] if len(moved) == 1 else rows[to]
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            array = np.asarray(tensor)
            if len(order) > len(array):
                found[name] = array[rows]
                continue
            if moved:
                axis, longest = used[name]
                part = () if axis is None else (slice(None),) * (axis - 1) + (slice(longest),)
                array[(to, *part)] = array[(origin, *part)]
            found[name] = array[: len(order)]
        return found

    def stack(self, tensors: Sequence[Tensor], axis: int | None) -> Array:
        """A copy."""
        arrays = [np.asarray(tensor) for tensor in tensors]
        if axis is None or len({array.shape[axis] for array in arrays}) == 1:
            return np.concatenate(arrays)
        shape = list(arrays[0].shape)
        shape[0] = sum(len(array) for array in arrays)
        shape[axis] = max(array.shape[axis] for array in arrays)
        stacked = np.zeros(shape, arrays[0].dtype)
        start = 0
        for array in arrays:
            rows = slice(start, start + len(array))
            stacked[(rows, *(slice(None),) * (axis - 1), slice(array.shape[axis]))] = array
            start += len(array)
        return stacked


HOST = HostRows()
