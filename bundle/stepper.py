"""Run any graph that keeps the contract of ``docs/bundle-format.md``, whatever form its state takes.

The stepper knows neither onnxruntime nor an architecture: it reads the names of tensors and axes, feeds what
the graph declares, and keeps for every row what the next step needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.graphs import AheadGraph, Graph, InPlaceGraph, ResidentGraph
from bundle.state import Ahead, Best, Bound, Layout, Reach, State, TensorSpec, room
from bundle.tensors import HOST, Array, Tensor

__all__ = ["Array", "Best", "Graph", "Prompt", "Scores", "State", "Stepper", "TensorSpec"]

#: Kernels add up four entries as one group: a source axis that ended inside a group would change a row's last
#: bits with the length of its neighbours, so the axis always ends with a group.
_GROUP = 4
#: A single row is multiplied by another kernel than several, so prompts are never run one column wide.
_COLUMNS = 2


@dataclass(frozen=True)
class Prompt:
    """What a row starts from: ``ids`` begin with bos; ``source`` (translators) ends with eos."""

    ids: tuple[int, ...]
    source: tuple[int, ...] = ()


class Scores(NamedTuple):
    """What a run says of the next token of each row: the logits ``[rows, vocab]`` where they were asked for,
    and the best where the graph gives them."""

    logits: NDArray[np.float32] | None
    best: Best | None


class Stepper:
    """Advances rows through a step graph, in any of the three forms of state.

    Args:
        graph: the step graph.
        encoder: what makes ``memory.*`` (and perhaps the first ``past.*``) of a translator.
        pad: the id that fills rows on the right; its value changes nothing.
        capacity: most tokens a row may hold (``limits.context_tokens``; 0 = unbounded).

    Attributes:
        vocab: number of logits, 0 until the first run where the graph does not declare it.
        best: how many of the likeliest tokens the graph itself names for each row; 0 = it does not.

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
        self._in_place = graph if isinstance(graph, InPlaceGraph) else None
        self._resident = _resident(graph)
        self._resident_encoder = None if encoder is None or self._resident is None else _resident(encoder)
        rows = None if self._resident is None else self._resident.rows
        self._layout = Layout(self._past, self._memory, group=_GROUP, rows=rows or HOST)
        # Only a recurrent state is changed by padding, and only where the graph is not told of it.
        forms = [spec.place("past", "capacity") is not None for spec in self._past]
        self._pads = "counts" in graph.inputs or all(forms)
        self._pads_source = encoder is not None and "counts" in encoder.inputs
        self._present = {spec.name: "present." + spec.name[len("past.") :] for spec in self._past}
        vocab = graph.outputs["logits"].axes[-1]
        self.vocab = vocab if isinstance(vocab, int) else 0
        width = graph.outputs["best.ids"].axes[-1] if "best.ids" in graph.outputs else 0
        self.best = width if isinstance(width, int) else 0
        able = self.best > 0 and self._layout.steady and self._resident is None
        #: whether several steps can be had in one call (:meth:`ahead`)
        self.goes_ahead = able and isinstance(graph, AheadGraph) and graph.goes_ahead
        self._numbers = count()

    def _check(self) -> None:
        graph, encoder = self._graph, self._encoder
        known = {"ids", "counts", "lengths", "picks", "source_counts"}
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

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[NDArray[np.float32], State]:
        """Start rows from their prompts, all in one run.

        Returns:
            Logits ``[rows, vocab]`` after each prompt's last token, and the state.

        Raises:
            ValueError: a prompt is empty or longer than the capacity, or prompts of different length meet a
                graph that does not take ``counts``.
        """
        scores, state = self.begin(prompts, logits=True)
        assert scores.logits is not None
        return scores.logits, state

    def step(self, state: State, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], State]:
        """Feed one token to each row; logits ``[rows, vocab]`` after it, and the new state."""
        scores, state = self.advance(state, ids, logits=True)
        assert scores.logits is not None
        return scores.logits, state

    def begin(self, prompts: Sequence[Prompt], *, logits: bool) -> tuple[Scores, State]:
        """:meth:`prefill`, with the logits only where they are wanted or where there is nothing else."""
        ids, counts = self._pack([prompt.ids for prompt in prompts], pads=self._pads)
        if self.capacity and counts.max() > self.capacity:
            raise ValueError(f"a prompt of {counts.max()} tokens does not fit a capacity of {self.capacity}")
        return self._run(self._start(prompts), ids, counts, logits=logits)

    def advance(self, state: State, ids: NDArray[np.int64], *, logits: bool) -> tuple[Scores, State]:
        """:meth:`step`, with the logits only where they are wanted or where there is nothing else."""
        if self.best and not logits and self._layout.steady and self._resident is None:
            return self._step_in_place(state, ids)
        return self._run(state, ids[:, None], np.ones(len(ids), np.int32), logits=logits)

    def start(self, prompts: Sequence[Prompt]) -> State:
        """Rows that have read nothing but their sources: what :meth:`begin` begins from."""
        return self._start(prompts)

    def ahead(
        self, state: State, ids: NDArray[np.int64], reach: Reach
    ) -> tuple[Ahead, Callable[[int], State]]:
        """Several steps in one call, where the graph can: each row goes on with its likeliest token.

        Returns:
            What came of the steps, and the state after so many of them.
        """
        state, past, bound = self._ready(state, reach.most)
        assert bound is not None
        found, after = bound.ahead(past, ids, state.lengths, reach)

        def later(steps: int) -> State:
            lengths = state.lengths + np.int32(steps)
            return replace(state, lengths=lengths, past=after(steps), bound=bound)

        return found, later

    def score(self, prompts: Sequence[Prompt]) -> list[NDArray[np.float32]]:
        """Teacher-forced logits ``[len(ids), vocab]`` of each prompt: after every one of its tokens."""
        ids, counts = self._pack([prompt.ids for prompt in prompts], pads=self._pads)
        picks = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        [logits], _ = self._compute(self._start(prompts), ids, counts, picks, ["logits"])
        return [row[:count] for row, count in zip(logits, counts, strict=True)]

    @property
    def aligns(self) -> bool:
        """Whether the graph tells where it looks in the source."""
        return "attention" in self._graph.outputs

    def align(self, prompts: Sequence[Prompt]) -> list[NDArray[np.float32]]:
        """Teacher-forced attention ``[len(ids), len(source)]`` of each prompt: where the decoder looked for
        the token after each of its own. One run, after decoding; what is decoded does not pay for it.

        Raises:
            ValueError: see :meth:`prefill`, and where the graph tells no attention.
        """
        if not self.aligns:
            raise ValueError("the graph has no output attention")
        ids, counts = self._pack([prompt.ids for prompt in prompts], pads=self._pads)
        last = (counts - 1).astype(np.int64)[:, None]  # of the logits, which nobody reads, no more than one
        [found], _ = self._compute(self._start(prompts), ids, counts, last, ["attention"])
        sizes = zip(found, counts, [len(prompt.source) for prompt in prompts], strict=True)
        return [row[:count, :source] for row, count, source in sizes]

    def select(self, state: State, rows: NDArray[np.int64]) -> State:
        """The state of ``rows`` in that order: rows left out leave, rows named twice are copied.

        ``state`` itself is used up: what is kept in place is reordered in place.
        """
        return self._layout.select(state, rows)

    def join(self, states: Sequence[State]) -> State:
        """One state of all the rows, in order; the shorter are padded on the right.

        The first of ``states`` is used up: the others may be written behind its rows.
        """
        return self._layout.join(states)

    def _pack(
        self, rows: Sequence[Sequence[int]], *, pads: bool, whole: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Rows as one array padded on the right, and how long each is."""
        counts = np.array([len(row) for row in rows], np.int32)
        if not counts.all():
            raise ValueError("a row has no token")
        width = int(counts.max(initial=0))
        if pads:
            width = self._layout.whole_groups(width) if whole else max(width, _COLUMNS)
        elif (counts != width).any():
            raise ValueError("rows of different length, and the graph does not take counts")
        ids = np.full((len(rows), width), self._pad, np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        return ids, counts

    def _start(self, prompts: Sequence[Prompt]) -> State:
        made: dict[str, Tensor] = {}
        counts = sources = None
        if self._encoder is not None:
            ids, counts = self._pack(
                [prompt.source for prompt in prompts], pads=self._pads_source, whole=True
            )
            feeds: dict[str, Array] = {"ids": ids}
            if "counts" in self._encoder.inputs:
                feeds["counts"] = counts
            names = list(self._encoder.outputs)
            # what a graph on the host would only have to fetch again is not left behind
            resident = self._resident_encoder
            found: Sequence[Tensor] = (
                self._encoder.run(feeds, names) if resident is None else resident.keep(feeds, [], names)[1]
            )
            made = dict(zip(names, found, strict=True))
            sources = np.array([next(self._numbers) for _ in prompts], np.int64)
        sizes = {"batch": len(prompts), "past": 0, "capacity": room(1, self.capacity)}
        past: dict[str, Tensor] = {
            spec.name: made[spec.name]
            if spec.name in made
            else np.zeros([axis if isinstance(axis, int) else sizes[axis] for axis in spec.axes], np.float32)
            for spec in self._past
        }
        memory = {spec.name: made[spec.name] for spec in self._memory}
        return State(np.zeros(len(prompts), np.int32), past, memory, counts, sources)

    def _run(
        self, state: State, ids: NDArray[np.int64], counts: NDArray[np.int32], *, logits: bool
    ) -> tuple[Scores, State]:
        """One run, and the scores after each row's last real token."""
        fetches = ["best.scores", "best.ids"] if self.best else []
        if logits or not self.best:
            fetches = ["logits", *fetches]
        last = (counts - 1).astype(np.int64)[:, None]
        outputs, state = self._compute(state, ids, counts, last, fetches)
        found = dict(zip(fetches, outputs, strict=True))
        if "picks" in self._graph.inputs:
            found = {name: array[:, 0] for name, array in found.items()}
        elif "logits" in found:
            found["logits"] = found["logits"][np.arange(len(counts)), last[:, 0]]
        best = Best(found["best.scores"], found["best.ids"]) if self.best else None
        return Scores(found.get("logits"), best), state

    def _compute(
        self,
        state: State,
        ids: NDArray[np.int64],
        counts: NDArray[np.int32],
        picks: NDArray[np.int64],
        fetches: Sequence[str],
    ) -> tuple[list[Array], State]:
        needed = int(state.lengths.max(initial=0)) + ids.shape[1]
        state = self._layout.enlarge(state, needed, self.capacity)
        feeds: dict[str, Any] = {"ids": ids, **state.past, **state.memory}
        for name, array in (
            ("counts", counts),
            ("lengths", state.lengths),
            ("picks", picks),
            ("source_counts", state.source_counts),
        ):
            if name in self._graph.inputs and array is not None:
                feeds[name] = array
        names = list(self._present.values())
        found, present = self._graph_run(feeds, fetches, names)
        if "logits" in fetches:
            self.vocab = found[fetches.index("logits")].shape[-1]
        lengths = state.lengths + counts
        past = self._layout.cut(dict(zip(self._present, present, strict=True)), int(lengths.max(initial=0)))
        return found, State(lengths, past, state.memory, state.source_counts, state.sources)

    def _graph_run(
        self, feeds: dict[str, Any], fetches: Sequence[str], kept: list[str]
    ) -> tuple[list[Array], Sequence[Tensor]]:
        """What is wanted now, and what the next step reads."""
        if self._resident is not None:
            return self._resident.keep(feeds, fetches, kept)
        outputs = self._graph.run(feeds, [*fetches, *kept])
        return outputs[: len(fetches)], outputs[len(fetches) :]

    def _step_in_place(self, state: State, ids: NDArray[np.int64]) -> tuple[Scores, State]:
        """A step over arrays that the runtime knows already, which gives the best tokens alone."""
        state, past, bound = self._ready(state, 1)
        if bound is None:
            return self._run(state, ids[:, None], np.ones(len(ids), np.int32), logits=False)
        past = bound(past, ids, state.lengths)
        return Scores(None, bound.best), replace(state, lengths=state.lengths + 1, past=past, bound=bound)

    def _ready(self, state: State, tokens: int) -> tuple[State, Mapping[str, Tensor], Bound | None]:
        """A state with room for so many tokens, its past, and the runs that step it."""
        needed = int(state.lengths.max()) + tokens if self._layout.fixed else 0
        state = self._layout.enlarge(state, needed, self.capacity)
        bound = self._bound(state)
        if bound is None or bound is state.bound:
            return state, state.past, bound
        return state, bound.pasts[0], bound

    def _bound(self, state: State) -> Bound | None:
        """The runs that step a state: those that it was stepped by before, or new ones from its past."""
        bound = state.bound
        if bound is None:
            return self._bind(state)
        if bound.turns(state.past) and bound.back is None:
            first, second = bound.pasts
            bound.back = self._run_between(second, first, bound.inputs, bound.best, bound.held)
        return bound

    def _bind(self, state: State) -> Bound | None:
        """A run from a past: into itself where the graph writes in place, else into arrays of its own."""
        rows = len(state)
        small: dict[str, Array] = {
            "ids": np.zeros((rows, 1), np.int64),
            "counts": np.ones(rows, np.int32),
            "lengths": np.zeros(rows, np.int32),
            "picks": np.zeros((rows, 1), np.int64),
        }
        if state.source_counts is not None:
            small["source_counts"] = state.source_counts
        small = {name: array for name, array in small.items() if name in self._graph.inputs}
        best = Best(np.zeros((rows, self.best), np.float32), np.zeros((rows, self.best), np.int64))
        # select and join may have left views
        first = {name: np.ascontiguousarray(array) for name, array in state.past.items()}
        # in place only where the contract says so: a recurrent graph may read what it has written
        fixed = self._layout.fixed
        second = first
        if len(fixed) < len(first):
            second = {n: first[n] if n in fixed else np.empty_like(first[n]) for n in first}
        # the runtime reads the memory where it lies for as long as the state lives
        memory = {name: np.ascontiguousarray(array) for name, array in state.memory.items()}
        run = self._run_between(first, second, small, best, memory)
        if run is None:
            return None
        return Bound(run, small, best, pasts=(first, second), held=memory)

    def _run_between(
        self,
        read: Mapping[str, Array],
        written: Mapping[str, Array],
        small: Mapping[str, Array],
        best: Best,
        memory: Mapping[str, Array],
    ) -> Callable[[], None] | None:
        """A step from the past `read` to the one `written`; None where the graph cannot be told arrays."""
        if self._in_place is None:
            return None
        named: dict[str, Array] = {"best.scores": best.scores[:, None], "best.ids": best.ids[:, None]}
        present = {self._present[name]: array for name, array in written.items()}
        return self._in_place.bind({**small, **read, **memory}, {**named, **present})


def _resident(graph: Graph) -> ResidentGraph | None:
    return graph if isinstance(graph, ResidentGraph) and graph.rows is not None else None
