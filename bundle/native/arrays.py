"""Arrays as the kernels take them: by address, once they are what they should be."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.native.library import Going
from bundle.state import Ahead, Best, Reach, TensorSpec

Array = NDArray[Any]

FLOAT32, INT32, INT64 = (np.dtype(kind) for kind in ("float32", "int32", "int64"))


def read(array: Array, dtype: np.dtype[Any], *shape: int) -> int:
    """Where an array lies that is what the kernels will take it for: they do not look."""
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"an array {array.dtype} {array.shape} where {dtype} {shape} is needed")
    return _place(array) if array.flags.writeable else address(array)


def written(array: Array, dtype: np.dtype[Any], *shape: int) -> int:
    """The same for an array that will be written to."""
    if array.shape != shape or array.dtype != dtype or not array.flags.carray:
        raise ValueError(
            f"an array {array.dtype} {array.shape} where {dtype} {shape} is needed, to be written to"
        )
    return _place(array)


def _place(array: Array) -> int:
    # a fifth of the time that the array itself takes to tell, and there are many
    return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]


class Steps:
    """Room for what comes of several steps in one call."""

    def __init__(self, reach: Reach, rows: int, best: int) -> None:
        banned, most, end, seconds = reach
        self._best = Best(np.empty((most, rows, best), np.float32), np.empty((most, rows, best), np.int64))
        self._taken = np.empty((most, rows), np.float32), np.empty((most, rows), np.int64)
        self._banned = banned
        self.going = Going(
            banned=_place(banned),
            best_scores=_place(self._best.scores),
            best_ids=_place(self._best.ids),
            scores=_place(self._taken[0]),
            ids=_place(self._taken[1]),
            end=end,
            microseconds=int(seconds * 1e6),
            most=most,
        )

    @property
    def done(self) -> Ahead:
        """What came of the steps that were done."""
        done = self.going.done
        scores, ids = self._taken
        return Ahead(Best(self._best.scores[:done], self._best.ids[:done]), ids[:done], scores[:done])


def answers(fetches: Sequence[str], picks: tuple[int, ...], best: int, vocab: int) -> dict[str, Array]:
    """Room for what is wanted of the picked places. What no kernel writes, behind a row's end, is nought."""
    made: dict[str, Array] = {}
    if "logits" in fetches:
        made["logits"] = np.zeros((*picks, vocab), np.float32)
    if "best.scores" in fetches or "best.ids" in fetches:
        made["best.scores"] = np.zeros((*picks, best), np.float32)
        made["best.ids"] = np.zeros((*picks, best), np.int64)
    return made


def address(array: Array) -> int:
    """Where an array begins."""
    return int(array.__array_interface__["data"][0])


def aligned(size: int) -> NDArray[np.int8]:
    """Bytes that begin at a whole line of the caches."""
    room = np.empty(size + 64, np.int8)
    start = -address(room) % 64
    return room[start : start + size]


_WHOLE = {
    **dict.fromkeys(("ids", "picks", "best.ids"), "int64"),
    **dict.fromkeys(("counts", "lengths", "source_counts"), "int32"),
}


def specs(axes: Mapping[str, tuple[str | int, ...]]) -> dict[str, TensorSpec]:
    """The border of a graph, whose types the contract fixes."""
    return {name: TensorSpec(name, _WHOLE.get(name, "float32"), places) for name, places in axes.items()}
