"""Graphs that our own kernels run, with the border of the graph that they were read from."""

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Final

import numpy as np

from bundle.native.arrays import FLOAT32, INT32, INT64, Array, Steps, address, answers, read, specs, written
from bundle.native.library import FOREIGN_ID, MORE_POSITIONS, PROVIDER, Decoding, Encoding, kernels
from bundle.native.network import Reader, Unlike, read_decoder, read_encoder, set_positions
from bundle.native.recurrent import RecurrentKernels
from bundle.state import Ahead, Reach
from bundle.stored import Stored, read_stored

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
        if "past.0.cell" in stored.inputs:
            return RecurrentKernels(stored, library)
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
        self.inputs = specs(stored.inputs)
        self.outputs = specs(stored.outputs)
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

    goes_ahead = True

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
        feeds = {
            name: array if array.flags.c_contiguous else np.ascontiguousarray(array)
            for name, array in feeds.items()
        }
        made: dict[str, Array] = {}
        for before, after in zip(self._past, self._present, strict=True):
            for past, present in zip(before, after, strict=True):
                if not feeds[past].flags.writeable:
                    feeds[past] = feeds[past].copy()
                made[present] = feeds[past]
        made |= answers(fetches, feeds["picks"].shape, self._best, self._net.vocab)
        if "attention" in fetches:
            rows, time = feeds["ids"].shape
            made["attention"] = np.zeros((rows, time, feeds["memory.0.key"].shape[-1]), np.float32)
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

    def _stepping(self, feeds: Mapping[str, Array], fetches: Mapping[str, Array]) -> "_Stepping":
        net, ids, past = self._net, feeds["ids"], feeds["past.0.key"]
        (rows, time), capacity, picked = ids.shape, past.shape[2], feeds["picks"].shape[1]
        run = Decoding(rows=rows, time=time, picked=picked, capacity=capacity, best=self._best)
        run.ids = read(ids, INT64, rows, time)
        run.counts = read(feeds["counts"], INT32, rows)
        run.lengths = read(feeds["lengths"], INT32, rows)
        run.picks = read(feeds["picks"], INT64, rows, picked)
        heads, size = net.heads, net.hidden // net.heads
        shape = (rows, heads, capacity, size)
        run.keys, run.values = _both(written, feeds, self._past, shape, shape)
        if self._memory:
            source = run.source = feeds["memory.0.key"].shape[-1]
            run.source_counts = read(feeds["source_counts"], INT32, rows)
            shapes = (rows, heads, size, source), (rows, heads, source, size)
            run.memory_keys, run.memory_values = _both(read, feeds, self._memory, *shapes)
        if "logits" in fetches:
            run.logits = written(fetches["logits"], FLOAT32, rows, picked, net.vocab)
        if "best.ids" in fetches:
            run.best_scores = written(fetches["best.scores"], FLOAT32, rows, picked, self._best)
            run.best_ids = written(fetches["best.ids"], INT64, rows, picked, self._best)
        if "attention" in fetches:
            run.attention = written(fetches["attention"], FLOAT32, rows, time, run.source)
        longest = max(capacity, run.source)
        once = self._runner(self._library.voisin_decode, run, time, longest)
        net, there, ahead, room = (
            ctypes.byref(self._net),
            ctypes.byref(run),
            self._library.voisin_ahead,
            self._room,
        )
        return _Stepping(
            once, lambda *rest: ahead(net, there, room(time, longest), *rest), (rows, self._best)
        )


class _Stepping:
    """Steps over arrays that the kernels were told once."""

    def __init__(self, once: Callable[[], None], several: Callable[..., int], shape: tuple[int, int]) -> None:
        self._several = several
        self._shape = shape
        self._once = once

    def __call__(self) -> None:
        """One step."""
        self._once()

    def ahead(self, reach: Reach) -> tuple[Ahead, Callable[[int], None]]:
        """Several steps in one call; what is written behind those that count is not seen."""
        steps = Steps(reach, *self._shape)
        if self._several(ctypes.byref(steps.going)):
            # at the first step: it is said, or room is made, by one step alone
            self._once()
            return self.ahead(reach)
        return steps.done, lambda _: None


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
        run.ids, run.counts = read(ids, INT64, rows, source), read(counts, INT32, rows)
        run.keys, run.values = _both(written, made, self._memory, keys, values)
        self._runner(self._library.voisin_encode, run, source, source)()
        return [made[name] for name in fetches]


Kernels = StepKernels | EncoderKernels | RecurrentKernels


def _both(
    where: Callable[..., int],
    arrays: Mapping[str, Array],
    names: Sequence[tuple[str, str]],
    keys: tuple[int, ...],
    values: tuple[int, ...],
) -> tuple[Any, Any]:
    """The addresses of keys and of values of such shapes."""
    kind = ctypes.c_void_p * len(names)
    return (
        kind(*(where(arrays[name], FLOAT32, *keys) for name, _ in names)),
        kind(*(where(arrays[name], FLOAT32, *values) for _, name in names)),
    )
