"""Run any graph that keeps the contract of ``docs/bundle-format.md``, whatever form its state takes.

The stepper knows neither onnxruntime nor an architecture: it reads the names of tensors and axes, feeds what
the graph declares, and keeps for every row what the next step needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Kernels add up four entries as one group: a source axis that ended inside a group would change a row's last
#: bits with the length of its neighbours, so the axis always ends with a group.
_GROUP = 4
#: A single row is multiplied by another kernel than several, so prompts are never run one column wide.
_COLUMNS = 2


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and axes of a tensor at the border of a graph; an axis is a name or a constant."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]


class Graph(Protocol):
    """Anything that computes named outputs from named inputs."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What may be fed: every name must be."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What may be fetched."""

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute ``fetches``, in that order. The arrays returned belong to the caller."""


@dataclass(frozen=True)
class Prompt:
    """What a row starts from: ``ids`` begin with bos; ``source`` (translators) ends with eos."""

    ids: tuple[int, ...]
    source: tuple[int, ...] = ()


@dataclass(frozen=True)
class State:
    """What the rows of a batch hold between two steps. Opaque: only the stepper looks inside."""

    lengths: NDArray[np.int32]
    past: dict[str, Array]
    memory: dict[str, Array] = field(default_factory=dict)
    source_counts: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.lengths)


class Stepper:
    """Advances rows through a step graph, in any of the three forms of state.

    Args:
        graph: the step graph.
        encoder: what makes ``memory.*`` (and perhaps the first ``past.*``) of a translator.
        pad: the id that fills rows on the right; its value changes nothing.
        capacity: most tokens a row may hold (``limits.context_tokens``; 0 = unbounded).

    Attributes:
        vocab: number of logits, 0 until the first run where the graph does not declare it.

    Raises:
        ValueError: the graph does not keep the contract.
    """

    def __init__(self, graph: Graph, encoder: Graph | None = None, *, pad: int, capacity: int = 0) -> None:
        self.capacity = capacity
        self._graph = graph
        self._encoder = encoder
        self._pad = pad
        self._past = [spec for name, spec in graph.inputs.items() if name.startswith("past.")]
        self._memory = [spec for name, spec in graph.inputs.items() if name.startswith("memory.")]
        self._check()
        self._takes_counts = "counts" in graph.inputs
        # Only a recurrent state is changed by padding, and only where the graph is not told of it.
        forms = [{"past", "capacity"} & set(spec.axes) for spec in self._past]
        self._pads = self._takes_counts or all(forms)
        self._pads_source = encoder is not None and "counts" in encoder.inputs
        self._takes_lengths = "lengths" in graph.inputs
        self._takes_source_counts = "source_counts" in graph.inputs
        self._fetches = ["logits", *("present." + spec.name[len("past.") :] for spec in self._past)]
        # Where the axis stands that is as long as the longest row, by tensor name.
        self._ragged = {
            spec.name: spec.axes.index(axis)
            for spec in (*self._past, *self._memory)
            for axis in ("past", "source")
            if axis in spec.axes
        }
        self._grows = [spec.name for spec in self._past if spec.name in self._ragged]
        vocab = graph.outputs["logits"].axes[-1]
        self.vocab = vocab if isinstance(vocab, int) else 0

    def _check(self) -> None:
        graph, encoder = self._graph, self._encoder
        known = {"ids", "counts", "lengths", "source_counts"}
        carried = {spec.name for spec in (*self._past, *self._memory)}
        needed = {"logits", *("present." + spec.name[len("past.") :] for spec in self._past)}
        made = set(encoder.outputs) if encoder is not None else set()
        faults = {
            "lacks the input": {"ids"} - set(graph.inputs),
            "lacks the output": needed - set(graph.outputs),
            "has an unknown input": set(graph.inputs) - known - carried,
            "needs from an encoder": {spec.name for spec in self._memory} - made,
            "is not an input for the encoder's": made - carried,
        }
        if encoder is not None:
            faults["has an encoder without"] = {"ids"} - set(encoder.inputs)
            faults["has an encoder with unknown"] = set(encoder.inputs) - {"ids", "counts"}
        for fault, names in faults.items():
            if names:
                raise ValueError(f"the graph {fault} {', '.join(sorted(names))}")
        for spec in (*self._past, *self._memory):
            names = {axis for axis in spec.axes[1:] if isinstance(axis, str)}
            allowed = {"past", "capacity"} if spec.name.startswith("past.") else {"source"}
            if spec.axes[:1] != ("batch",) or len(names) > 1 or not names <= allowed:
                raise ValueError(f"the axes of {spec.name} are {spec.axes}")
            if "capacity" in names and not self.capacity:
                raise ValueError(f"{spec.name} has a capacity, and limits.context_tokens is 0")

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[NDArray[np.float32], State]:
        """Start rows from their prompts, all in one run.

        Returns:
            Logits ``[rows, vocab]`` after each prompt's last token, and the state.

        Raises:
            ValueError: a prompt is empty or longer than the capacity, or prompts of different length meet a
                graph that does not take ``counts``.
        """
        ids, counts = self._pack([prompt.ids for prompt in prompts], pads=self._pads)
        if self.capacity and counts.max() > self.capacity:
            raise ValueError(f"a prompt of {counts.max()} tokens does not fit a capacity of {self.capacity}")
        logits, state = self._advance(self._start(prompts), ids, counts)
        return logits[np.arange(len(counts)), counts - 1], state

    def step(self, state: State, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], State]:
        """Feed one token to each row; logits ``[rows, vocab]`` after it, and the new state."""
        logits, state = self._advance(state, ids[:, None], np.ones(len(ids), np.int32))
        return logits[:, 0], state

    def score(self, prompts: Sequence[Prompt]) -> list[NDArray[np.float32]]:
        """Teacher-forced logits ``[len(ids), vocab]`` of each prompt: after every one of its tokens."""
        ids, counts = self._pack([prompt.ids for prompt in prompts], pads=self._pads)
        logits, _ = self._advance(self._start(prompts), ids, counts)
        return [row[:count] for row, count in zip(logits, counts, strict=True)]

    def select(self, state: State, rows: NDArray[np.int64]) -> State:
        """The state of ``rows`` in that order: rows left out leave, rows named twice are copied."""
        lengths = state.lengths[rows]
        longest = int(lengths.max(initial=0))
        sources = None if state.source_counts is None else state.source_counts[rows]
        widest = 0 if sources is None else _whole_groups(int(sources.max(initial=0)))
        return State(
            lengths,
            {name: self._cut(name, array, longest)[rows] for name, array in state.past.items()},
            {name: self._cut(name, array, widest)[rows] for name, array in state.memory.items()},
            sources,
        )

    def join(self, states: Sequence[State]) -> State:
        """One state of all the rows, in order; the shorter are padded on the right."""
        if len(states) == 1:
            return states[0]
        sources = [state.source_counts for state in states if state.source_counts is not None]
        return State(
            np.concatenate([state.lengths for state in states]),
            {spec.name: self._stack(spec.name, [s.past[spec.name] for s in states]) for spec in self._past},
            {
                spec.name: self._stack(spec.name, [s.memory[spec.name] for s in states])
                for spec in self._memory
            },
            np.concatenate(sources) if sources else None,
        )

    def _pack(
        self, rows: Sequence[Sequence[int]], *, pads: bool, whole: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Rows as one array padded on the right, and how long each is."""
        counts = np.array([len(row) for row in rows], np.int32)
        if not counts.all():
            raise ValueError("a row has no token")
        width = int(counts.max(initial=0))
        if pads:
            width = _whole_groups(width) if whole else max(width, _COLUMNS)
        elif (counts != width).any():
            raise ValueError("rows of different length, and the graph does not take counts")
        ids = np.full((len(rows), width), self._pad, np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        return ids, counts

    def _start(self, prompts: Sequence[Prompt]) -> State:
        made: dict[str, Array] = {}
        sources = None
        if self._encoder is not None:
            ids, sources = self._pack(
                [prompt.source for prompt in prompts], pads=self._pads_source, whole=True
            )
            feeds: dict[str, Array] = {"ids": ids}
            if "counts" in self._encoder.inputs:
                feeds["counts"] = sources
            names = list(self._encoder.outputs)
            made = dict(zip(names, self._encoder.run(feeds, names), strict=True))
        sizes = {"batch": len(prompts), "past": 0, "capacity": self.capacity}
        past = {
            spec.name: made[spec.name]
            if spec.name in made
            else np.zeros([axis if isinstance(axis, int) else sizes[axis] for axis in spec.axes], np.float32)
            for spec in self._past
        }
        memory = {spec.name: made[spec.name] for spec in self._memory}
        return State(np.zeros(len(prompts), np.int32), past, memory, sources)

    def _advance(
        self, state: State, ids: NDArray[np.int64], counts: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], State]:
        feeds: dict[str, Array] = {"ids": ids, **state.past, **state.memory}
        if self._takes_counts:
            feeds["counts"] = counts
        if self._takes_lengths:
            feeds["lengths"] = state.lengths
        if self._takes_source_counts and state.source_counts is not None:
            feeds["source_counts"] = state.source_counts
        logits, *present = self._graph.run(feeds, self._fetches)
        self.vocab = logits.shape[-1]
        lengths = state.lengths + counts
        past = {spec.name: array for spec, array in zip(self._past, present, strict=True)}
        if self._grows:
            longest = int(lengths.max(initial=0))
            for name in self._grows:
                past[name] = self._cut(name, past[name], longest)
        return logits, State(lengths, past, state.memory, state.source_counts)

    def _cut(self, name: str, array: Array, length: int) -> Array:
        """The first ``length`` entries of the axis that grows, where there is one; a view."""
        axis = self._ragged.get(name)
        if axis is None or array.shape[axis] <= length:
            return array
        return array[(slice(None),) * axis + (slice(length),)]

    def _stack(self, name: str, arrays: list[Array]) -> Array:
        axis = self._ragged.get(name)
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


def _whole_groups(size: int) -> int:
    return -(-size // _GROUP) * _GROUP
