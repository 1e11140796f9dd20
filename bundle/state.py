"""What the rows of a batch hold between two steps, and how rows leave, are copied and come together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from bundle.spare import Extent, Spare
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


class Ahead(NamedTuple):
    """What came of several steps in one call, each row going on with its likeliest token that is not banned.

    Attributes:
        best: after each step, ``[steps, rows, k]``.
        ids, scores: of the tokens taken, ``[steps, rows]``.
    """

    best: Best
    ids: NDArray[np.int64]
    scores: NDArray[np.float32]


class Reach(NamedTuple):
    """How far rows may go on by themselves.

    Attributes:
        banned: ``[vocab]``, the tokens that are never taken: fewer than the graph names.
        most: steps, for which there must be room in the context.
        end: the id that ends a row, and the steps.
        seconds: after which no step is begun.
    """

    banned: NDArray[np.bool_]
    most: int
    end: int
    seconds: float


class AheadRun(Protocol):
    """A step over arrays that stay where they are, which can go on by itself."""

    def __call__(self) -> None:
        """One step."""

    def ahead(self, reach: Reach) -> tuple[Ahead, Callable[[int], None]]:
        """At least one step, and what makes the present that of so many of them."""


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
        held: Mapping[str, Array],
    ) -> None:
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
        run, written = self._fed(past, ids, lengths)
        run()
        return written

    def ahead(
        self, past: Mapping[str, Tensor], ids: Array, lengths: Array, reach: "Reach"
    ) -> tuple[Ahead, Callable[[int], Mapping[str, Array]]]:
        """Feed one token ``[rows]`` to each row, then the one that it took, and so on.

        Returns:
            What came of it, and the past after so many of the steps.
        """
        run, written = self._fed(past, ids, lengths)
        found, settle = cast(AheadRun, run).ahead(reach)

        def after(steps: int) -> Mapping[str, Array]:
            settle(steps)
            return written

        return found, after

    def _fed(
        self, past: Mapping[str, Tensor], ids: Array, lengths: Array
    ) -> tuple[Callable[[], None], Mapping[str, Array]]:
        """The run that reads `past`, once it has been told the tokens, and the past that it writes."""
        self.inputs["ids"][:, 0] = ids
        if "lengths" in self.inputs:
            self.inputs["lengths"][...] = lengths
        if not self.turns(past):
            return self._run, self.pasts[1]
        assert self.back is not None
        return self.back, self.pasts[0]


@dataclass(frozen=True)
class State:
    """What the rows of a batch hold between two steps. Opaque: only the stepper looks inside.

    Attributes:
        lengths: tokens in the past of each row.
        past, memory: by the names of the graph's inputs; on the device where the graph keeps them there.
        source_counts: tokens of each row's source.
        sources: a number for each row's source; rows with the same number read the same memory.
        bound: the runs that read and write these very arrays, once there are any.
        spare: the arrays whose first rows past and memory are, where there is room for more.
    """

    lengths: NDArray[np.int32]
    past: Mapping[str, Tensor]
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    source_counts: NDArray[np.int32] | None = None
    sources: NDArray[np.int64] | None = None
    bound: "Bound | None" = None
    spare: Spare | None = None

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
        self._roomy = bool(past) and len(self.fixed) == len(past) and rows is HOST

    def select(self, state: State, rows: NDArray[np.int64]) -> State:
        """The state of `rows` in that order. What is of fixed capacity or bound is reordered in place."""
        lengths = state.lengths[rows]
        longest = int(lengths.max(initial=0))
        sources = state.sources if state.sources is None else state.sources[rows]
        same = len(rows) == len(state)
        stay = sources is None or (same and bool((sources == state.sources).all()))
        if stay and same and state.bound is not None:
            # as mostly: beams changed places, each within the rows of its own sentence. What they remember is
            # reordered where it lies, and stays the dictionary that the run goes by
            self._rows.reorder(
                state.past, rows, {name: (self._axes.get(name), longest) for name in state.past}
            )
            return replace(state, lengths=lengths)
        counts = None if state.source_counts is None else state.source_counts[rows]
        extents = self._extents(longest, counts)
        spare = state.spare
        # beams may grow beyond its room, too: copied elsewhere, they are no longer its first rows
        if spare is not None and not self._suits(spare, len(rows), extents):
            spare = None
        lie = state.past if spare is None else spare.arrays
        placed = {name: lie[name] for name in state.past if name in self.fixed or state.bound is not None}
        past: Mapping[str, Tensor] = {
            name: self._rows.take(self._cut(name, tensor, longest), rows)
            for name, tensor in state.past.items()
            if name not in placed
        } | self._rows.reorder(placed, rows, extents)
        if stay:
            memory = state.memory
        elif spare is not None:
            memory = self._rows.reorder({name: lie[name] for name in state.memory}, rows, extents)
        else:
            memory = {
                name: self._rows.take(self._cut(name, tensor, extents[name].used), rows)
                for name, tensor in state.memory.items()
            }
        return State(lengths, past, memory, counts, sources, None, spare)

    def join(self, states: Sequence[State]) -> State:
        """One state of all the rows, in order; the shorter are padded on the right.

        The first is used up: where it has room, the others are written behind its rows.
        """
        if len(states) == 1:
            return states[0]
        lengths = np.concatenate([state.lengths for state in states])
        some_counts = [state.source_counts for state in states if state.source_counts is not None]
        some_sources = [state.sources for state in states if state.sources is not None]
        counts = np.concatenate(some_counts) if some_counts else None
        sources = np.concatenate(some_sources) if some_sources else None
        spare: Spare | None = None
        if self._roomy:
            spare = self._gather(states, self._extents(int(lengths.max(initial=0)), counts))
            found: Mapping[str, Tensor] = spare.first(len(lengths))
        else:
            found = {
                spec.name: self._rows.stack([t[spec.name] for t in tensors], self._axes.get(spec.name))
                for specs, tensors in (
                    (self.past, [state.past for state in states]),
                    (self.memory, [state.memory for state in states]),
                )
                for spec in specs
            }
        past = {spec.name: found[spec.name] for spec in self.past}
        memory = {spec.name: found[spec.name] for spec in self.memory}
        return State(lengths, past, memory, counts, sources, spare=spare)

    def _gather(self, states: Sequence[State], extents: Mapping[str, Extent]) -> Spare:
        """Arrays that begin with the rows of all states: those of the first, where they have room."""
        rows = sum(map(len, states))
        spare, start = states[0].spare, len(states[0])
        if spare is None or not self._suits(spare, rows, extents):
            spare, start = Spare(rows, self._shapes(states, extents)), 0
        for state in states if not start else states[1:]:
            tensors = {name: np.asarray(t) for name, t in (*state.past.items(), *state.memory.items())}
            spare.put(start, tensors, self._extents(int(state.lengths.max(initial=0)), state.source_counts))
            start += len(state)
        return spare

    def _suits(self, spare: Spare, rows: int, extents: Mapping[str, Extent]) -> bool:
        """Whether `spare` has room for these rows, and not so much that reading all of it takes longer."""
        widths = ((spare.arrays[spec.name].shape, *extents[spec.name]) for spec in self.memory)
        wide = any(axis is not None and shape[axis] > 2 * used for shape, axis, used in widths)
        return not wide and spare.holds(rows, extents)

    def _shapes(
        self, states: Sequence[State], extents: Mapping[str, Extent]
    ) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Type and shape of a row: a past as long as the longest has room, a memory as long as it is read."""
        found = {}
        for name, (axis, used) in extents.items():
            arrays = [np.asarray({**state.past, **state.memory}[name]) for state in states]
            shape = list(arrays[0].shape)
            if axis is not None:
                shape[axis] = max(array.shape[axis] for array in arrays) if name in self.fixed else used
            found[name] = (arrays[0].dtype, tuple(shape[1:]))
        return found

    def _extents(self, longest: int, counts: NDArray[np.int32] | None) -> dict[str, Extent]:
        """What is read of rows whose longest are that long."""
        widest = 0 if counts is None else self.whole_groups(int(counts.max(initial=0)))
        used = {spec.name: longest for spec in self.past} | {spec.name: widest for spec in self.memory}
        return {name: Extent(self._axes.get(name), size) for name, size in used.items()}

    def cut(self, past: Mapping[str, Tensor], longest: int) -> dict[str, Tensor]:
        """A past that grows, cut to its longest row."""
        return {
            name: self._cut(name, tensor, longest) if name in self.growing else tensor
            for name, tensor in past.items()
        }

    def enlarge(self, state: State, tokens: int, most: int) -> State:
        """With room for so many tokens in a past of fixed capacity, of `most` at most (0 = any number)."""
        found = dict(state.past)
        for name in self.fixed:
            axis = self._axes[name]
            if found[name].shape[axis] < tokens:
                array = np.asarray(found[name])
                shape = list(array.shape)
                shape[axis] = room(tokens, most)
                # zeros: a graph of plain operators multiplies what it does not see by nought
                larger = np.zeros(shape, array.dtype)
                larger[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
                found[name] = larger
        if all(found[name] is state.past[name] for name in found):
            return state
        return replace(state, past=found, bound=None, spare=None)

    def whole_groups(self, size: int) -> int:
        """A length rounded up to whole groups."""
        return -(-size // self._group) * self._group

    def _cut(self, name: str, tensor: Tensor, length: int) -> Tensor:
        """The first ``length`` entries of the axis that grows, where there is one."""
        axis = self._axes.get(name)
        if axis is None or tensor.shape[axis] <= length:
            return tensor
        return self._rows.cut(tensor, axis, length)


def room(tokens: int, most: int) -> int:
    """The capacity to give a past that must hold so many tokens, of at most `most` (0 = unbounded)."""
    wanted = -(-tokens // ROOM) * ROOM
    return min(wanted, most) if most else wanted
