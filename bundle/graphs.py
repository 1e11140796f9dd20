"""What a stepper may ask of a graph, whoever runs it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from bundle.state import TensorSpec
from bundle.tensors import Array, RowOps, Tensor


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


@runtime_checkable
class InPlaceGraph(Graph, Protocol):
    """A graph that can be told once where its tensors lie."""

    def bind(self, feeds: Mapping[str, Array], fetches: Mapping[str, Array]) -> Callable[[], None] | None:
        """A run over these very arrays, to be called again and again; None where there is no such thing."""


@runtime_checkable
class AheadGraph(InPlaceGraph, Protocol):
    """A graph whose bound runs can go on by themselves (:class:`bundle.state.AheadRun`)."""

    goes_ahead: bool


@runtime_checkable
class ResidentGraph(Graph, Protocol):
    """A graph that can keep what it computes where it computes."""

    @property
    def rows(self) -> RowOps | None:
        """How rows are arranged there; None where all that is computed comes back to the host."""

    def keep(
        self, feeds: Mapping[str, Tensor], fetches: Sequence[str], kept: Sequence[str]
    ) -> tuple[list[Array], list[Tensor]]:
        """Compute ``fetches``, which come to the host, and ``kept``, which do not and may be fed again."""
