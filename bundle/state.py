"""What the rows of a batch hold between two steps, and how rows leave, are copied and come together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.tensors import HOST, Array, RowOps, Tensor

#: A past of fixed capacity is made this much longer when it is full: a few copies in a long answer, little
#: memory for a short one.
ROOM = 32


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and axes of a tensor at the border of a graph; an axis is a name or a constant."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]

    def place(self, *names: str) -> int | None:
        """Where the first of some named axes stands."""
        return next((self.axes.index(name) for name in names if name in self.axes), None)


class Best(NamedTuple):
    """The k likeliest next tokens of each row, likeliest first: log-probabilities and ids ``[rows, k]``."""

    scores: NDArray[np.float32]
    ids: NDArray[np.int64]


class Bound:
    """Steps over arrays that stay where they are: the small inputs are written, the best tokens read.

    A graph that does not work in place writes another past than it reads, and the next step goes the other
    way. Both ways are one object: two that referred to each other would be freed, with all they hold, only
    when the collector of cycles comes by, which under load was after hundreds of megabytes.

    Args:
        run: computes ``best`` and the second past from ``inputs`` and the first.
        inputs: the small ones. Whatever else is read is kept alive by ``pasts`` and ``held``.
        pasts: the one that is read and the one that is written, by the names of inputs; one and the same
            where the graph works in place.
        capacity: entries that the past has room for; 0 where it does not grow.
        held: what else the runtime reads where it lies.

    Attributes:
        back: the run from the second past into the first, once there is one.
    """

    def __init__(
        self,
        run: Callable[[], None],
        inputs: dict[str, Array],
        best: Best,
        *,
        pasts: tuple[Mapping[str, Array], Mapping[str, Array]],
        capacity: int = 0,
        held: Mapping[str, Array],
    ) -> None:
        self.capacity = capacity
        self.inputs = inputs
        self.best = best
        self.pasts = pasts
        self.held = held
        self.back: Callable[[], None] | None = None
        self._run = run

    def turns(self, past: Mapping[str, Tensor]) -> bool:
        """Whether a step that reads `past` goes back, into the first."""
        return past is not self.pasts[0]

    def __call__(self, past: Mapping[str, Tensor], ids: Array, lengths: Array) -> Mapping[str, Array]:
        """Feed one token ``[rows]`` to each row. Returns the past that was written."""
        self.inputs["ids"][:, 0] = ids
        if "lengths" in self.inputs:
            self.inputs["lengths"][...] = lengths
        if not self.turns(past):
            self._run()
            return self.pasts[1]
        assert self.back is not None
        self.back()
        return self.pasts[0]


@dataclass(frozen=True)
class State:
    """What the rows of a batch hold between two steps. Opaque: only the stepper looks inside.

    Attributes:
        lengths: tokens in the past of each row.
        past, memory: by the names of the graph's inputs; on the device where the graph keeps them there.
        source_counts: tokens of each row's source.
        sources: a number for each row's source; rows with the same number read the same memory.
        bound: the runs that read and write these very arrays, once there are any.
    """

    lengths: NDArray[np.int32]
    past: Mapping[str, Tensor]
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    source_counts: NDArray[np.int32] | None = None
    sources: NDArray[np.int64] | None = None
    bound: "Bound | None" = None

    def __len__(self) -> int:
        return len(self.lengths)


class Layout:
    """Where the axes stand along which tensors of rows of different length differ.

    Args:
        past, memory: the specs of the state.
        group: the source axis always is a whole number of groups long.
        rows: arranges rows where the tensors lie.
    """

    def __init__(
        self,
        past: Sequence[TensorSpec],
        memory: Sequence[TensorSpec],
        *,
        group: int,
        rows: RowOps = HOST,
    ) -> None:
        self.past = past
        self.memory = memory
        self._rows = rows
        self._group = group
        self._axes = {
            spec.name: axis
            for spec in (*past, *memory)
            if (axis := spec.place("past", "capacity", "source")) is not None
        }
        self.growing = [spec.name for spec in past if spec.place("past") is not None]
        self.fixed = [spec.name for spec in past if spec.place("capacity") is not None]
        #: Whether the state is as large after a step as before it, so that it can be bound.
        self.steady = bool(past) and not self.growing

    def select(self, state: State, rows: NDArray[np.int64]) -> State:
        """The state of `rows` in that order. What is of fixed capacity or bound is reordered in place."""
        lengths = state.lengths[rows]
        longest = int(lengths.max(initial=0))
        sources = state.sources if state.sources is None else state.sources[rows]
        counts = None if state.source_counts is None else state.source_counts[rows]
        past: Mapping[str, Tensor] = {
            name: self._rows.reorder(tensor, rows, self._axes.get(name), longest)
            if name in self.fixed or state.bound is not None
            else self._rows.take(self._cut(name, tensor, longest), rows)
            for name, tensor in state.past.items()
        }
        if state.bound is not None and len(rows) == len(state):
            past = state.past  # reordered where it lies, and still the dictionary that the run goes by
        bound = None
        if sources is None or state.sources is None or np.array_equal(sources, state.sources):
            memory = state.memory  # beams changed places, each within the rows of its own sentence
            bound = state.bound if len(rows) == len(state) else None
        else:
            widest = 0 if counts is None else self.whole_groups(int(counts.max(initial=0)))
            memory = {
                name: self._rows.take(self._cut(name, tensor, widest), rows)
                for name, tensor in state.memory.items()
            }
        return State(lengths, past, memory, counts, sources, bound)

    def join(self, states: Sequence[State]) -> State:
        """One state of all the rows, in order; the shorter are padded on the right."""
        if len(states) == 1:
            return states[0]
        counts = [state.source_counts for state in states if state.source_counts is not None]
        sources = [state.sources for state in states if state.sources is not None]
        return State(
            np.concatenate([state.lengths for state in states]),
            {spec.name: self._stack(spec.name, [s.past for s in states]) for spec in self.past},
            {spec.name: self._stack(spec.name, [s.memory for s in states]) for spec in self.memory},
            np.concatenate(counts) if counts else None,
            np.concatenate(sources) if sources else None,
        )

    def cut(self, past: Mapping[str, Tensor], longest: int) -> dict[str, Tensor]:
        """A past that grows, cut to its longest row."""
        return {
            name: self._cut(name, tensor, longest) if name in self.growing else tensor
            for name, tensor in past.items()
        }

    def enlarge(self, past: Mapping[str, Tensor], tokens: int, most: int) -> dict[str, Tensor]:
        """A past of fixed capacity with room for so many tokens; `most` (0 = unbounded) are ever needed."""
        found = dict(past)
        for name in self.fixed:
            axis = self._axes[name]
            if past[name].shape[axis] < tokens:
                array = np.asarray(past[name])
                shape = list(array.shape)
                shape[axis] = room(tokens, most)
                # zeros: a graph of plain operators multiplies what it does not see by nought
                larger = np.zeros(shape, array.dtype)
                larger[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
                found[name] = larger
        return found

    def axis(self, name: str) -> int:
        """Where the axis of a tensor stands that is as long as its longest row."""
        return self._axes[name]

    def whole_groups(self, size: int) -> int:
        """A length rounded up to whole groups."""
        return -(-size // self._group) * self._group

    def _cut(self, name: str, tensor: Tensor, length: int) -> Tensor:
        """The first ``length`` entries of the axis that grows, where there is one."""
        axis = self._axes.get(name)
        if axis is None or tensor.shape[axis] <= length:
            return tensor
        return self._rows.cut(tensor, axis, length)

    def _stack(self, name: str, parts: Sequence[Mapping[str, Tensor]]) -> Tensor:
        return self._rows.stack([part[name] for part in parts], self._axes.get(name))


def room(tokens: int, most: int) -> int:
    """The capacity to give a past that must hold so many tokens, of at most `most` (0 = unbounded)."""
    wanted = -(-tokens // ROOM) * ROOM
    return min(wanted, most) if most else wanted
