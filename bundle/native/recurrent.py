"""LSTM language models, read from fast graphs and run by our own kernels."""

import ctypes
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from bundle.native.arrays import FLOAT32, INT32, INT64, Array, Steps, address, answers, read, specs, written
from bundle.native.library import FOREIGN_ID, PROVIDER, Product, Reading, Recurrent
from bundle.native.network import BEST, SIGNED, Reader, Unlike
from bundle.state import Ahead, Reach
from bundle.stored import Stored

_MOST_LAYERS: Final = 16
"""As in kernels.h."""

_START = "Cast ReverseSequence Shape Sub DequantizeLinear Squeeze Loop Gather"
_FIRST = "Gather QuantizeLinear MatMulIntegerToFloat Add"
_OTHER = "Concat QuantizeLinear MatMulIntegerToFloat"
_GATES = "Split Sigmoid Split Mul Tanh Mul Add Tanh Mul"
_PICK = "Unsqueeze Concat Unsqueeze Sub Transpose Unsqueeze GatherND"


def read_recurrent(reader: Reader) -> Any:
    """The network of an LSTM language model with a table of its tokens' gates and an output of its own.

    Raises:
        Unlike: it is not one that the kernels know.
    """
    axes = reader.stored.inputs["past.0.hidden"]
    hidden = axes[1] if len(axes) == 2 and isinstance(axes[1], int) else 0
    depth = sum(name.endswith(".cell") for name in reader.stored.inputs)
    if hidden <= 0 or hidden % 16 or depth > _MOST_LAYERS:
        raise Unlike(f"{depth} layers of {hidden}")
    net = Recurrent(depth=depth, hidden=hidden)
    restored = reader.take(_START)[4]
    table = reader.weight(restored.inputs[0], np.int8, -1, 4 * hidden)
    net.vocab = len(table)
    net.table = reader.keep(np.ascontiguousarray(table))
    net.table_scales = reader.floats(restored.inputs[1], net.vocab)
    products = []
    for layer in range(depth):
        _, rounding, product, *_ = reader.take(_OTHER if layer else _FIRST)
        products.append(_product(reader, rounding, product, hidden * (2 if layer else 1), 4 * hidden))
        reader.take(_GATES)
    reader.take(_PICK)
    rounding, product = reader.take("QuantizeLinear MatMulIntegerToFloat")
    net.output = _product(reader, rounding, product, hidden, net.vocab)
    net.inverse = 1 / reader.number(rounding.inputs[1])
    reader.take("LogSoftmax")
    reader.take(BEST[0] if reader.comes("TopK") else BEST[1])
    if not reader.done or reader.stored.outputs["logits"][-1] != net.vocab:
        raise Unlike("there are more nodes, or the vocabularies differ")
    layers = (Product * depth)(*products)
    reader.kept.append(layers)
    net.layers = layers
    return net


def _product(reader: Reader, rounding: Any, product: Any, inputs: int, outputs: int) -> Any:
    """The product of hidden states, which lie between -1 and 1."""
    unit, zero = reader.number(rounding.inputs[1]), reader.number(rounding.inputs[2], np.uint8)
    if zero != SIGNED or not math.isclose(unit, 1 / 127, rel_tol=1e-6):
        raise Unlike("a hidden state is not rounded to 127 steps either way")
    return reader.product(product, inputs, outputs)


class RecurrentKernels:
    """The step graph of an LSTM language model. Any number of threads may run it at once.

    Attributes:
        states: what it carries on, without `past.` or `present.`.
        best: how many of the likeliest tokens it names.
    """

    provider = PROVIDER
    goes_ahead = True

    def __init__(self, stored: Stored, library: ctypes.CDLL) -> None:
        reader = Reader(stored, library.voisin_pack)
        self._net = read_recurrent(reader)
        self._kept = reader.kept
        self._library = library
        self._scratch = threading.local()
        self.inputs = specs(stored.inputs)
        self.outputs = specs(stored.outputs)
        self.best = int(self.outputs["best.ids"].axes[-1])
        self.states = [f"{layer}.{part}" for layer in range(self._net.depth) for part in ("hidden", "cell")]

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute ``fetches`` from ``feeds``, which are not written to.

        Raises:
            ValueError: an id is no token, a row has no token, or arrays do not fit each other.
        """
        made = {f"present.{name}": np.array(feeds[f"past.{name}"], order="C") for name in self.states}
        made |= answers(fetches, feeds["picks"].shape, self.best, self._net.vocab)
        small = {name: np.ascontiguousarray(feeds[name]) for name in ("ids", "counts", "picks")}
        self.runner(self.reading(small, made))()
        return [made[name] for name in fetches]

    def bind(self, feeds: Mapping[str, Array], fetches: Mapping[str, Array]) -> "_Stepping":
        """A run that reads ``feeds`` and writes ``fetches`` where they lie; see ``Session.bind``."""
        return _Stepping(self, feeds, fetches)

    def reading(self, feeds: Mapping[str, Array], fetches: Mapping[str, Array]) -> Any:
        """What the kernel is told of a run."""
        (rows, time), picked = feeds["ids"].shape, feeds["picks"].shape[1]
        run = Reading(rows=rows, time=time, picked=picked, best=self.best)
        run.ids = read(feeds["ids"], INT64, rows, time)
        run.counts = read(feeds["counts"], INT32, rows)
        run.picks = read(feeds["picks"], INT64, rows, picked)
        places = [
            written(fetches[f"present.{name}"], FLOAT32, rows, self._net.hidden) for name in self.states
        ]
        run.states = (ctypes.c_void_p * len(places))(*places)
        if "logits" in fetches:
            run.logits = written(fetches["logits"], FLOAT32, rows, picked, self._net.vocab)
        if "best.ids" in fetches:
            run.best_scores = written(fetches["best.scores"], FLOAT32, rows, picked, self.best)
            run.best_ids = written(fetches["best.ids"], INT64, rows, picked, self.best)
        return run

    def _room(self) -> int:
        """Where this thread's scratch lies."""
        found = getattr(self._scratch, "place", 0)
        if not found:
            size = self._library.voisin_recurrent_scratch(ctypes.byref(self._net))
            self._scratch.array = np.empty(size, np.uint8)
            found = self._scratch.place = address(self._scratch.array)
        return found

    def read_ahead(self, run: Any, steps: Steps) -> None:
        """Several steps from the states that a run is told."""
        net, there, going = ctypes.byref(self._net), ctypes.byref(run), ctypes.byref(steps.going)
        _say(self._library.voisin_read_ahead(net, there, self._room(), going))

    def runner(self, run: Any) -> Callable[[], None]:
        """A run, to be called as often as the arrays that it reads have changed."""
        net, there, kernel, room = (
            ctypes.byref(self._net),
            ctypes.byref(run),
            self._library.voisin_read,
            self._room,
        )

        def once() -> None:
            _say(kernel(net, there, room()))

        return once


class _Stepping:
    """Steps from one set of states into another."""

    def __init__(
        self, graph: RecurrentKernels, feeds: Mapping[str, Array], fetches: Mapping[str, Array]
    ) -> None:
        self._graph = graph
        self._feeds = feeds
        self._states = {name: (feeds[f"past.{name}"], fetches[f"present.{name}"]) for name in graph.states}
        self._once = graph.runner(graph.reading(feeds, fetches))

    def __call__(self) -> None:
        """One step."""
        for past, present in self._states.values():
            present[...] = past
        self._once()

    def ahead(self, reach: Reach) -> tuple[Ahead, Callable[[int], None]]:
        """Several steps in one call; what the states are after each of them is kept apart."""
        rows = len(self._feeds["ids"])
        held = {}
        for name, (past, _) in self._states.items():
            held[name] = np.empty((reach.most, *past.shape), np.float32)
            held[name][0] = past
        steps = Steps(reach, rows, self._graph.best)
        run = self._graph.reading(self._feeds, {f"present.{name}": each[0] for name, each in held.items()})
        self._graph.read_ahead(run, steps)

        def settle(count: int) -> None:
            for name, (_, present) in self._states.items():
                present[...] = held[name][count - 1]

        return steps.done, settle


def _say(fault: int) -> None:
    if fault:
        raise ValueError("an id is no token" if fault == FOREIGN_ID else "a row has no token, or too many")
