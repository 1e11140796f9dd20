"""Transformers, decoder-only and encoder-decoder, pre-norm, with tied or free embeddings."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.attention import Attention, upto, within, write_at
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


def frequencies(hidden: int) -> Tensor:
    """Angular frequencies of the sinusoids, float32 [hidden / 2]: 10000 ** (-2 i / hidden)."""
    steps = torch.arange(0, hidden, 2, dtype=torch.float64) / hidden
    return (10000.0**-steps).float()


class Embedding(nn.Module):
    """Token vectors plus positions.

    Sinusoids stand as sines then cosines (a permutation of Vaswani et al.'s interleaved channels); they are
    computed and not stored, hence unbounded. Beside them the token vectors are scaled by sqrt(hidden), as in
    the paper.
    """

    frequencies: Tensor

    def __init__(self, config: ModelConfig, vocab_size: int, sinusoidal: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, config.hidden)
        self.positions = None if sinusoidal else nn.Embedding(config.max_positions, config.hidden)
        self.scale = math.sqrt(config.hidden) if sinusoidal else 1.0
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("frequencies", frequencies(config.hidden), persistent=False)
        nn.init.normal_(self.tokens.weight, std=config.hidden**-0.5 if sinusoidal else 0.02)
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.01)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """[batch, n, hidden] from ids [batch, n] and positions, int64 broadcast to [batch, n]."""
        x = self.tokens(ids) * self.scale
        if self.positions is not None:
            # Padding may stand beyond the table; real tokens are kept within it by the limits.
            x = x + self.positions(positions.clamp(max=self.positions.num_embeddings - 1))
        else:
            angle = positions[..., None].float() * self.frequencies
            x = x + torch.cat([angle.sin(), angle.cos()], dim=-1)
        out: Tensor = self.dropout(x)
        return out


class FeedForward(nn.Module):
    """Two layers on each token alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.hidden, config.inner)
        self.down = nn.Linear(config.inner, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.up(x)) if self.activation == "gelu" else F.relu(self.up(x))
        out: Tensor = self.down(inner)
        return out


class Block(nn.Module):
    """Pre-norm layer: x + attention(norm x), then x + feedforward(norm x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(config.hidden)
        self.self_attention = Attention(config.hidden, config.heads)
        self.feedforward_norm = nn.LayerNorm(config.hidden)
        self.feedforward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Self attention over a whole sequence."""
        query, key, value = self.self_attention.projections(self.self_norm(x))
        return x + self._drop(self.self_attention(query, key, value, mask, causal))

    def attend_past(
        self, x: Tensor, past: tuple[Tensor, Tensor], at: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Self attention over a past that grows by the tokens of x; also returns its new keys and values."""
        query, key, value = self.self_attention.projections(self.self_norm(x))
        keys, values = write_at(past[0], key, at), write_at(past[1], value, at)
        attended = self.self_attention(query, keys, values, upto(at, keys.shape[1]))
        return x + self._drop(attended), keys, values

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward half."""
        return x + self._drop(self.feedforward(self.feedforward_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(x)
        return out


class CrossBlock(Block):
    """A decoder's layer: between the two halves, x + attention(norm x, memory)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.cross_norm = nn.LayerNorm(config.hidden)
        self.cross_attention = Attention(config.hidden, config.heads)

    def attend_memory(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Attention over the source, given this layer's keys and values of it."""
        query = self.cross_attention.queries(self.cross_norm(x))
        return x + self._drop(self.cross_attention(query, *memory, mask))

    def weights(self, x: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        """What `attend_memory` looks at, mean over the heads: [batch, time, source]."""
        query = self.cross_attention.queries(self.cross_norm(x))
        return self.cross_attention.weights(query, key, mask).mean(dim=1)


AnyBlock = TypeVar("AnyBlock", bound=Block)


class Stack(nn.Module, Generic[AnyBlock]):
    """Blocks and the final norm of a pre-norm network; `writers` = sub-layers of a block."""

    def __init__(self, hidden: int, layers: Sequence[AnyBlock], writers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(hidden)
        initialise(self, writers * len(layers))

    @property
    def layers(self) -> Sequence[AnyBlock]:
        return cast("Sequence[AnyBlock]", self.blocks)


def initialise(stack: nn.Module, writers: int) -> None:
    """Xavier per projection; what writes into the residual stream is scaled by 1 / sqrt(writers) (GPT-2)."""
    for module in stack.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in stack.modules():
        if isinstance(module, Attention):
            for first, last in pairwise(range(0, 3 * module.hidden + 1, module.hidden)):
                nn.init.xavier_uniform_(module.inputs.weight.data[first:last])
            module.output.weight.data.mul_(writers**-0.5)
        elif isinstance(module, FeedForward):
            module.down.weight.data.mul_(writers**-0.5)


class Output(nn.Module):
    """Logits: the tied embedding transposed, or a matrix and bias of its own."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.free = None if config.tied else nn.Linear(config.hidden, vocab_size)

    def forward(self, x: Tensor, embedding: Embedding) -> Tensor:
        out: Tensor = F.linear(x, embedding.tokens.weight) if self.free is None else self.free(x)
        return out


def key_value(prefix: str, layer: int) -> tuple[str, str]:
    """Names of a layer's keys and values: `past.0.key`, `past.0.value`."""
    return f"{prefix}.{layer}.key", f"{prefix}.{layer}.value"


def past_names(layers: int) -> list[str]:
    """Names of the state of a Transformer, in graph order."""
    return [name for layer in range(layers) for name in key_value("past", layer)]


def memory_names(layers: int) -> list[str]:
    """Names of the memory of a Transformer, in graph order."""
    return [name for layer in range(layers) for name in key_value("memory", layer)]


class TransformerLanguage(Language):
    """Decoder-only Transformer (Radford et al. 2019)."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.embedding = Embedding(config, vocab_size, config.positions == "sinusoidal")
        self.decoder = Stack(config.hidden, [Block(config) for _ in range(config.decoder_depth)], writers=2)
        self.output = Output(config, vocab_size)

    def forward(
        self, ids: Tensor, state: State | None = None, counts: Tensor | None = None
    ) -> tuple[Tensor, State]:
        x = self.embedding(ids, torch.arange(ids.shape[1], device=ids.device)[None])
        for block in self.decoder.layers:
            x = block.feed(block.attend(x, None, causal=True))
        return self.output(self.decoder.norm(x), self.embedding), {}

    @property
    def step_inputs(self) -> Specs:
        size = self.config.hidden // self.config.heads
        past = (float_spec(n, "past", self.config.heads, size) for n in past_names(self.config.decoder_depth))
        return specs(ids_spec("time"), rows_spec("lengths"), *past)

    @property
    def step_outputs(self) -> Specs:
        return _step_outputs(self.config, self.vocab_size)

    def step(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ids, outputs = feeds["ids"], dict[str, Tensor]()
        at = feeds["lengths"].long()[:, None] + torch.arange(ids.shape[1], device=ids.device)
        x = self.embedding(ids, at)
        for index, block in enumerate(self.decoder.layers):
            key, value = key_value("past", index)
            x, outputs[present(key)], outputs[present(value)] = block.attend_past(
                x, (feeds[key], feeds[value]), at
            )
            x = block.feed(x)
        return {"logits": self.output(self.decoder.norm(x), self.embedding), **outputs}


def _step_outputs(config: ModelConfig, vocab_size: int) -> Specs:
    size = config.hidden // config.heads
    logits = float_spec("logits", "time", vocab_size)
    return specs(
        logits,
        *(float_spec(present(n), "present", config.heads, size) for n in past_names(config.decoder_depth)),
    )


class TransformerTranslator(Translator):
    """Encoder-decoder Transformer (Vaswani et al. 2017)."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        sinusoidal = config.positions != "learned"
        self.source_embedding = Embedding(config, vocab_size, sinusoidal)
        self.target_embedding = Embedding(config, vocab_size, sinusoidal)
        if config.tied:
            self.target_embedding.tokens = self.source_embedding.tokens
        self.encoder = Stack(config.hidden, [Block(config) for _ in range(config.encoder_depth)], writers=2)
        self.decoder = Stack(
            config.hidden, [CrossBlock(config) for _ in range(config.decoder_depth)], writers=3
        )
        self.output = Output(config, vocab_size)

    def _encode(self, source: Tensor, mask: Tensor) -> Tensor:
        x = self.source_embedding(source, torch.arange(source.shape[1], device=source.device)[None])
        for block in self.encoder.layers:
            x = block.feed(block.attend(x, mask, causal=False))
        out: Tensor = self.encoder.norm(x)
        return out

    def forward(self, source: Tensor, source_counts: Tensor, target: Tensor) -> Tensor:
        mask = within(source_counts, source.shape[1])
        encoded = self._encode(source, mask)
        x = self.target_embedding(target, torch.arange(target.shape[1], device=target.device)[None])
        for block in self.decoder.layers:
            x = block.attend(x, None, causal=True)
            x = block.attend_memory(x, block.cross_attention.memory(encoded), mask)
            x = block.feed(x)
        logits: Tensor = self.output(self.decoder.norm(x), self.target_embedding)
        return logits

    @property
    def encode_inputs(self) -> Specs:
        return specs(ids_spec("source"), rows_spec("counts"))

    @property
    def encode_outputs(self) -> Specs:
        size = self.config.hidden // self.config.heads
        names = memory_names(self.config.decoder_depth)
        return specs(*(float_spec(name, "source", self.config.heads, size) for name in names))

    def encode(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        source = feeds["ids"]
        encoded = self._encode(source, within(feeds["counts"], source.shape[1]))
        outputs: dict[str, Tensor] = {}
        for index, block in enumerate(self.decoder.layers):
            key, value = key_value("memory", index)
            outputs[key], outputs[value] = block.cross_attention.memory(encoded)
        return outputs

    @property
    def step_inputs(self) -> Specs:
        size = self.config.hidden // self.config.heads
        past = (float_spec(n, "past", self.config.heads, size) for n in past_names(self.config.decoder_depth))
        memory = self.encode_outputs.values()
        return specs(ids_spec("time"), rows_spec("lengths"), *past, *memory, rows_spec("source_counts"))

    @property
    def step_outputs(self) -> Specs:
        shared = _step_outputs(self.config, self.vocab_size)
        return {**shared, "attention": float_spec("attention", "time", "source")}

    def step(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ids, outputs = feeds["ids"], dict[str, Tensor]()
        at = feeds["lengths"].long()[:, None] + torch.arange(ids.shape[1], device=ids.device)
        mask = within(feeds["source_counts"], feeds["memory.0.key"].shape[1])
        x = self.target_embedding(ids, at)
        for index, block in enumerate(self.decoder.layers):
            (key, value), memory = key_value("past", index), key_value("memory", index)
            x, outputs[present(key)], outputs[present(value)] = block.attend_past(
                x, (feeds[key], feeds[value]), at
            )
            if index == len(self.decoder.layers) - 1:
                outputs["attention"] = block.weights(x, feeds[memory[0]], mask)
            x = block.attend_memory(x, (feeds[memory[0]], feeds[memory[1]]), mask)
            x = block.feed(x)
        return {"logits": self.output(self.decoder.norm(x), self.target_embedding), **outputs}
