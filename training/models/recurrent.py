"""Recurrent networks: language models and encoder-decoders with Luong's attention."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bundle.stepper import TensorSpec
from training.models.attention import within
from training.models.config import ModelConfig
from training.models.contract import (
    Language,
    Specs,
    State,
    Translator,
    float_spec,
    ids_spec,
    present,
    rows_spec,
    specs,
)

CELLS: Final[dict[str, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]]] = {
    "rnn": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


def state_names(config: ModelConfig) -> list[str]:
    """Names of the carried state, in graph order: `past.0.hidden` (LSTM: `past.0.cell`), ..."""
    parts = ("hidden", "cell") if config.architecture == "lstm" else ("hidden",)
    return [f"past.{layer}.{part}" for layer in range(config.layers) for part in parts]


def _state_specs(config: ModelConfig) -> list[TensorSpec]:
    return [float_spec(name, config.hidden) for name in state_names(config)]


class Embedding(nn.Module):
    """Token vectors [.., width], learned, or one-hot when `embedding` is 0 (then width = vocabulary)."""

    one: Tensor

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.width = config.embedding or vocab_size
        self.tokens = nn.Embedding(vocab_size, config.embedding) if config.embedding else None
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("one", torch.ones(()), persistent=False)  # the type of one-hot vectors
        if self.tokens is not None:
            # A unit-variance embedding would make tied logits explode at the start.
            nn.init.uniform_(self.tokens.weight, -0.1, 0.1)

    def forward(self, ids: Tensor) -> Tensor:
        if self.tokens is None:
            return F.one_hot(ids, self.width).to(self.one.dtype)
        out: Tensor = self.dropout(self.tokens(ids))
        return out


class Cells(nn.Module):
    """Stacked recurrent layers over right-padded rows of different length."""

    def __init__(self, config: ModelConfig, width: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.architecture, self.layers, self.bidirectional = config.architecture, config.layers, bidirectional
        self.hidden = config.hidden // 2 if bidirectional else config.hidden
        self.net = CELLS[config.architecture](
            width,
            self.hidden,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
            bidirectional=bidirectional,
        )
        if config.architecture == "lstm":
            # An open forget gate at the start lets gradients through (Jozefowicz et al. 2015).
            for name, bias in self.net.named_parameters():
                if name.startswith("bias_ih"):
                    nn.init.ones_(bias.data[self.hidden : 2 * self.hidden])

    def forward(self, x: Tensor, state: State | None, counts: Tensor | None) -> tuple[Tensor, State]:
        """Run over [batch, time, width]; the state returned is the one after `counts` tokens (None = all).

        Returns:
            The top layer's [batch, time, hidden] (zeros beyond `counts`) and the state.
        """
        start = None if state is None else self._stacked(state)
        if counts is None:
            y, end = self.net(x, start)
            return y, self._named(end)
        packed = pack_padded_sequence(x, counts.cpu().long(), batch_first=True, enforce_sorted=False)
        z, end = self.net(packed, start)
        y, _ = pad_packed_sequence(z, batch_first=True, total_length=x.shape[1])
        return y, self._named(end)

    def _stacked(self, state: State) -> Tensor | tuple[Tensor, Tensor]:
        hidden = torch.stack([state[f"past.{layer}.hidden"] for layer in range(self.layers)])
        if self.architecture != "lstm":
            return hidden
        return hidden, torch.stack([state[f"past.{layer}.cell"] for layer in range(self.layers)])

    def _named(self, end: Tensor | tuple[Tensor, Tensor]) -> State:
        hidden, cell = end if isinstance(end, tuple) else (end, None)
        state: State = {}
        for layer in range(self.layers):
            state[f"past.{layer}.hidden"] = self._joined(hidden, layer)
            if cell is not None:
                state[f"past.{layer}.cell"] = self._joined(cell, layer)
        return state

    def _joined(self, end: Tensor, layer: int) -> Tensor:
        """A layer's last state; both directions side by side, forward first."""
        if not self.bidirectional:
            return end[layer]
        return torch.cat([end[2 * layer], end[2 * layer + 1]], dim=-1)


class Output(nn.Module):
    """Logits: a matrix and bias, or the tied embedding, reached through a projection where widths differ."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.free = None if config.tied else nn.Linear(config.hidden, vocab_size)
        narrow = config.tied and config.embedding != config.hidden
        self.projection = nn.Linear(config.hidden, config.embedding) if narrow else None

    def forward(self, x: Tensor, embedding: Embedding) -> Tensor:
        if self.free is not None:
            out: Tensor = self.free(x)
            return out
        assert embedding.tokens is not None
        return F.linear(x if self.projection is None else self.projection(x), embedding.tokens.weight)


class RecurrentLanguage(Language):
    """A character, word or sub-word model with carried state."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.embedding = Embedding(config, vocab_size)
        self.cells = Cells(config, self.embedding.width)
        self.dropout = nn.Dropout(config.dropout)
        self.output = Output(config, vocab_size)

    def forward(
        self, ids: Tensor, state: State | None = None, counts: Tensor | None = None
    ) -> tuple[Tensor, State]:
        y, state = self.cells(self.embedding(ids), state, counts)
        return self.output(self.dropout(y), self.embedding), state

    @property
    def step_inputs(self) -> Specs:
        return specs(ids_spec("time"), rows_spec("counts"), *_state_specs(self.config))

    @property
    def step_outputs(self) -> Specs:
        ends = (float_spec(present(name), self.config.hidden) for name in state_names(self.config))
        return specs(float_spec("logits", "time", self.vocab_size), *ends)

    def step(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        past = {name: feeds[name] for name in state_names(self.config)}
        logits, state = self.forward(feeds["ids"], past, feeds["counts"])
        return {"logits": logits, **{present(name): tensor for name, tensor in state.items()}}


class LuongAttention(nn.Module):
    """Global attention with the general score h_t' W h_s (Luong et al. 2015), no input feeding.

    Without input feeding the decoder's states do not depend on the attention, so that training runs over the
    whole target at once.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.general = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden)

    def memory(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (projected once) and values, [batch, source, hidden] each."""
        return self.general(encoded), encoded

    def forward(self, y: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """tanh(W [context; h_t]) [batch, time, hidden]; mask as in `attention.within`."""
        context = F.scaled_dot_product_attention(
            y[:, None], key[:, None], value[:, None], attn_mask=mask, scale=1.0
        )[:, 0]
        out: Tensor = torch.tanh(self.combine(torch.cat([context, y], dim=-1)))
        return out

    def weights(self, y: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        """What `forward` weighs the values with: [batch, time, source]."""
        scores = (y @ key.mT).masked_fill(~mask[:, 0], float("-inf"))
        return scores.softmax(dim=-1)


class RecurrentTranslator(Translator):
    """Encoder-decoder (Sutskever et al. 2014): the decoder starts from the encoder's last state, and, with
    `attention`, looks back at every source token."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.source_embedding = Embedding(config, vocab_size)
        self.target_embedding = Embedding(config, vocab_size)
        if config.tied:
            self.target_embedding.tokens = self.source_embedding.tokens
        self.encoder = Cells(config, self.source_embedding.width, config.bidirectional)
        self.decoder = Cells(config, self.target_embedding.width)
        self.attention = LuongAttention(config.hidden) if config.attention else None
        self.dropout = nn.Dropout(config.dropout)
        self.output = Output(config, vocab_size)

    def forward(self, source: Tensor, source_counts: Tensor, target: Tensor) -> Tensor:
        encoded, state = self.encoder(self.source_embedding(source), None, source_counts)
        y, _ = self.decoder(self.target_embedding(target), state, None)
        if self.attention is not None:
            mask = within(source_counts, source.shape[1])
            y = self.attention(y, *self.attention.memory(encoded), mask)
        logits: Tensor = self.output(self.dropout(y), self.target_embedding)
        return logits

    def _memory_specs(self) -> list[TensorSpec]:
        if self.attention is None:
            return []
        return [float_spec(f"memory.0.{part}", "source", self.config.hidden) for part in ("key", "value")]

    @property
    def encode_inputs(self) -> Specs:
        return specs(ids_spec("source"), rows_spec("counts"))

    @property
    def encode_outputs(self) -> Specs:
        return specs(*self._memory_specs(), *_state_specs(self.config))

    def encode(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoded, state = self.encoder(self.source_embedding(feeds["ids"]), None, feeds["counts"])
        if self.attention is None:
            return dict(state)
        key, value = self.attention.memory(encoded)
        return {"memory.0.key": key, "memory.0.value": value, **state}

    @property
    def step_inputs(self) -> Specs:
        memory = self._memory_specs()
        counted = [rows_spec("source_counts")] if memory else []
        return specs(ids_spec("time"), rows_spec("counts"), *_state_specs(self.config), *memory, *counted)

    @property
    def step_outputs(self) -> Specs:
        ends = (float_spec(present(name), self.config.hidden) for name in state_names(self.config))
        weights = [] if self.attention is None else [float_spec("attention", "time", "source")]
        return specs(float_spec("logits", "time", self.vocab_size), *ends, *weights)

    def step(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        past = {name: feeds[name] for name in state_names(self.config)}
        y, state = self.decoder(self.target_embedding(feeds["ids"]), past, feeds["counts"])
        outputs = {present(name): tensor for name, tensor in state.items()}
        if self.attention is not None:
            key, value = feeds["memory.0.key"], feeds["memory.0.value"]
            mask = within(feeds["source_counts"], key.shape[1])
            outputs["attention"] = self.attention.weights(y, key, mask)
            y = self.attention(y, key, value, mask)
        return {"logits": self.output(y, self.target_embedding), **outputs}
