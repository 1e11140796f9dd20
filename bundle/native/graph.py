"""Graphs that our own kernels run, with the border of the graph that they were read from."""

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bundle.native.library import FOREIGN_ID, MORE_POSITIONS, Decoding, Encoding, kernels
from bundle.native.network import Reader, Unlike, address, read_decoder, read_encoder, set_positions
from bundle.state import TensorSpec
from bundle.stored import Stored, read_stored

Array = NDArray[Any]

PROVIDER: Final = "CPUKernels"
"""What stands where others name an execution provider of onnxruntime."""

_POSITIONS: Final = 256
"""That a table of sines and cosines begins with."""


def open_native(path: str | PathLike[str]) -> "Kernels | None":
    """The graph of a file, run by the kernels; None where they cannot run it, or there are none here.

    What is wrong with a file is left for onnxruntime to say.
    """
    library = kernels()
    if library is None:
        return None
    try:
        stored = read_stored(path)
        if "best.ids" in stored.outputs:
            return StepKernels(stored, library)
        if "memory.0.key" in stored.outputs:
            return EncoderKernels(stored, library)
    except (OSError, ValueError, LookupError, Unlike):
        pass
    return None


class _Opened:
    """A network, its positions, and scratch for every thread that runs it."""

    provider = PROVIDER

    def __init__(self, stored: Stored, library: ctypes.CDLL, read: Callable[[Reader], Any]) -> None:
        reader = Reader(stored, library.voisin_pack)
        self._net = read(reader)
        self._kept = reader.kept
        self._frequencies = reader.frequencies
        self._library = library
        self._scratch = threading.local()
        self._growing = threading.Lock()
        self.inputs = _specs(stored.inputs)
        self.outputs = _specs(stored.outputs)
        if self._frequencies is not None:
            self._place(_POSITIONS)

    def _place(self, count: int) -> None:
        """Sines and cosines of so many positions (Vaswani et al. 2017, section 3.5).

        A smaller table stays where it is: another thread may be reading it.
        """
        assert self._frequencies is not None  # a learned table has its vector for all that follow
        with self._growing:
            if count > self._net.position_count:
                angles = np.arange(count, dtype=np.float32)[:, None] * self._frequencies
                set_positions(self._kept, self._net, np.concatenate([np.sin(angles), np.cos(angles)], axis=1))

    def _room(self, longest_row: int, longest: int) -> int:
        """Where this thread's scratch lies, for rows of so many tokens that look at so many others."""
        row, other, start = getattr(self._scratch, "held", (0, 0, 0))
        if row < longest_row or other < longest:
            row, other = max(row, longest_row), max(other, longest)
            size = self._library.voisin_scratch(ctypes.byref(self._net), row, other)
            self._scratch.array = np.empty(size, np.uint8)
            start = address(self._scratch.array)
            self._scratch.held = (row, other, start)
        return start

    def _runner(self, kernel: Any, run: Any, longest_row: int, longest: int) -> Callable[[], None]:
        """One run, to be called as often as the arrays that it reads have changed."""
        net, there, room = ctypes.byref(self._net), ctypes.byref(run), self._room

        def once() -> None:
            while fault := kernel(net, there, room(longest_row, longest)):
                if fault != MORE_POSITIONS:
                    raise ValueError(
                        "an id is no token" if fault == FOREIGN_ID else "a row is longer than its room"
                    )
                self._place(2 * self._net.position_count)

        return once


class StepKernels(_Opened):
    """The step graph of a language model or of a translator. Any number of threads may run it at once."""

    def __init__(self, stored: Stored, library: ctypes.CDLL) -> None:
        super().__init__(stored, library, read_decoder)
        blocks = range(self._net.depth)
        self._past = [(f"past.{i}.key", f"past.{i}.value") for i in blocks]
        self._present = [(f"present.{i}.key", f"present.{i}.value") for i in blocks]
        self._memory = [(f"memory.{i}.key", f"memory.{i}.value") for i in blocks if self._net.has_source]
        self._best = int(self.outputs["best.ids"].axes[-1])

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute ``fetches`` from ``feeds``. The past is written in place, behind what rows have of it, and
        given back as the present.

        Raises:
            ValueError: an id is no token, a row does not fit its past, or arrays do not fit each other.
        """
        feeds = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        made: dict[str, Array] = {}
        for before, after in zip(self._past, self._present, strict=True):
            for past, present in zip(before, after, strict=True):
                made[present] = feeds[past]
        picks, (rows, time) = feeds["picks"].shape, feeds["ids"].shape
        for name in fetches:
            if name in ("best.scores", "best.ids"):
                made["best.scores"] = np.zeros((*picks, self._best), np.float32)
                made["best.ids"] = np.zeros((*picks, self._best), np.int64)
            elif name == "logits":
                made[name] = np.zeros((*picks, self._net.vocab), np.float32)
            elif name == "attention":
                made[name] = np.zeros((rows, time, feeds["memory.0.key"].shape[-1]), np.float32)
        self._stepping(feeds, made)()
        return [made[name] for name in fetches]

    def bind(self, feeds: Mapping[str, Array], fetches: Mapping[str, Array]) -> Callable[[], None] | None:
        """A run that reads ``feeds`` and writes ``fetches`` where they lie; see ``Session.bind``.

        Returns:
            None where the past is not to be written in place.
        """
        for before, after in zip(self._past, self._present, strict=True):
            for past, present in zip(before, after, strict=True):
                if fetches.get(present) is not feeds[past]:
                    return None
        return self._stepping(feeds, fetches)

    def _stepping(self, feeds: Mapping[str, Array], fetches: Mapping[str, Array]) -> Callable[[], None]:
        net, ids, past = self._net, feeds["ids"], feeds["past.0.key"]
        (rows, time), capacity, picked = ids.shape, past.shape[2], feeds["picks"].shape[1]
        run = Decoding(rows=rows, time=time, picked=picked, capacity=capacity, best=self._best)
        run.ids = _checked(ids, np.int64, rows, time)
        run.counts = _checked(feeds["counts"], np.int32, rows)
        run.lengths = _checked(feeds["lengths"], np.int32, rows)
        run.picks = _checked(feeds["picks"], np.int64, rows, picked)
        heads, size = net.heads, net.hidden // net.heads
        shape = (rows, heads, capacity, size)
        run.keys, run.values = _both(feeds, self._past, shape, shape)
        if self._memory:
            source = run.source = feeds["memory.0.key"].shape[-1]
            run.source_counts = _checked(feeds["source_counts"], np.int32, rows)
            shapes = (rows, heads, size, source), (rows, heads, source, size)
            run.memory_keys, run.memory_values = _both(feeds, self._memory, *shapes)
        if "logits" in fetches:
            run.logits = _checked(fetches["logits"], np.float32, rows, picked, net.vocab)
        if "best.ids" in fetches:
            run.best_scores = _checked(fetches["best.scores"], np.float32, rows, picked, self._best)
            run.best_ids = _checked(fetches["best.ids"], np.int64, rows, picked, self._best)
        if "attention" in fetches:
            run.attention = _checked(fetches["attention"], np.float32, rows, time, run.source)
        return self._runner(self._library.voisin_decode, run, time, max(capacity, run.source))


class EncoderKernels(_Opened):
    """What makes the memory of a translator's decoder. Any number of threads may run it at once."""

    def __init__(self, stored: Stored, library: ctypes.CDLL) -> None:
        super().__init__(stored, library, read_encoder)
        self._memory = [(f"memory.{i}.key", f"memory.{i}.value") for i in range(self._net.memory_depth)]

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute ``fetches`` from ``feeds``.

        Raises:
            ValueError: an id is no token, or a row is longer than the source axis.
        """
        ids, counts = (np.ascontiguousarray(feeds[name]) for name in ("ids", "counts"))
        rows, source = ids.shape
        heads, size = self._net.heads, self._net.hidden // self._net.heads
        keys, values = (rows, heads, size, source), (rows, heads, source, size)
        made: dict[str, Array] = {}
        for key, value in self._memory:  # zeros: nought times NaN is not nought
            made[key], made[value] = np.zeros(keys, np.float32), np.zeros(values, np.float32)
        run = Encoding(rows=rows, source=source)
        run.ids, run.counts = _checked(ids, np.int64, rows, source), _checked(counts, np.int32, rows)
        run.keys, run.values = _both(made, self._memory, keys, values)
        self._runner(self._library.voisin_encode, run, source, source)()
        return [made[name] for name in fetches]


Kernels = StepKernels | EncoderKernels


def _checked(array: Array, dtype: type[np.generic], *shape: int) -> int:
    """Where an array lies that is what the kernels will take it for: they do not look."""
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"an array {array.dtype} {array.shape} where {np.dtype(dtype)} {shape} is needed")
    return address(array)


def _both(
    arrays: Mapping[str, Array],
    names: Sequence[tuple[str, str]],
    keys: tuple[int, ...],
    values: tuple[int, ...],
) -> tuple[Any, Any]:
    """The addresses of keys and of values of such shapes."""
    kind = ctypes.c_void_p * len(names)
    return (
        kind(*(_checked(arrays[name], np.float32, *keys) for name, _ in names)),
        kind(*(_checked(arrays[name], np.float32, *values) for _, name in names)),
    )


_WHOLE = {
    **dict.fromkeys(("ids", "picks", "best.ids"), "int64"),
    **dict.fromkeys(("counts", "lengths", "source_counts"), "int32"),
}


def _specs(axes: Mapping[str, tuple[str | int, ...]]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, _WHOLE.get(name, "float32"), places) for name, places in axes.items()}
