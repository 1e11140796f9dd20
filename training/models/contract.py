"""What every trainable model offers: a training form, and the step form that export lowers.

The step form has exactly the tensors of docs/bundle-format.md, so that `bundle.decoding` drives a torch
module (through `training.models.graph.TorchGraph`) and an exported graph alike, and export compares the two.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from bundle.stepper import TensorSpec
from training.models.config import ModelConfig

#: The state of a recurrent model between two stretches of text: "past.0.hidden" -> float32 [batch, hidden]...
State = dict[str, Tensor]
Specs = Mapping[str, TensorSpec]


class Model(nn.Module, ABC):
    """A network with a step form. `step_inputs` and `step_outputs` name its tensors, in order."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size

    @property
    @abstractmethod
    def step_inputs(self) -> Specs: ...

    @property
    @abstractmethod
    def step_outputs(self) -> Specs: ...

    @abstractmethod
    def step(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Advance every row by its new tokens: the step graph of docs/bundle-format.md."""


class Language(Model):
    """A model of text: the scores of the next token after each token."""

    @abstractmethod
    def forward(
        self, ids: Tensor, state: State | None = None, counts: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Score the token after each one.

        Args:
            ids: int64 [batch, time].
            state: what a recurrent model carries on from (None = zeros); a Transformer keeps none.
            counts: int [batch], real tokens of each row (None = all); the state returned is the one there.

        Returns:
            Logits [batch, time, vocab] and the state after the tokens (empty for a Transformer). Truncated
            BPTT passes the state on through `detached`.
        """


class Translator(Model):
    """A model of target text given a source sentence; both share one vocabulary."""

    @abstractmethod
    def forward(self, source: Tensor, source_counts: Tensor, target: Tensor) -> Tensor:
        """Score the target token after each one.

        Args:
            source: int64 [batch, source], right-padded, each row ending with eos.
            source_counts: int [batch], at least 1.
            target: int64 [batch, time], beginning with bos, right-padded.

        Returns:
            Logits [batch, time, vocab].
        """

    @property
    @abstractmethod
    def encode_inputs(self) -> Specs: ...

    @property
    @abstractmethod
    def encode_outputs(self) -> Specs: ...

    @abstractmethod
    def encode(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read the source once: the encoder graph of docs/bundle-format.md."""


def detached(state: State) -> State:
    """The same state, cut from the graph of gradients: the border of truncated BPTT."""
    return {name: tensor.detach() for name, tensor in state.items()}


def present(name: str) -> str:
    """`past.0.key` -> `present.0.key`."""
    return "present" + name.removeprefix("past")


def specs(*tensors: TensorSpec) -> Specs:
    """Tensors by name, in the order given."""
    return {tensor.name: tensor for tensor in tensors}


def ids_spec(axis: str) -> TensorSpec:
    """Token ids int64 [batch, axis]."""
    return TensorSpec("ids", "int64", ("batch", axis))


def rows_spec(name: str) -> TensorSpec:
    """A number per row, int32 [batch]."""
    return TensorSpec(name, "int32", ("batch",))


def float_spec(name: str, *axes: str | int) -> TensorSpec:
    """float32 [batch, *axes]."""
    return TensorSpec(name, "float32", ("batch", *axes))


def count_parameters(modules: Iterable[nn.Module]) -> int:
    """Trainable numbers of the modules; a tied tensor counts once."""
    seen = {id(p): p.numel() for module in modules for p in module.parameters() if p.requires_grad}
    return sum(seen.values())
