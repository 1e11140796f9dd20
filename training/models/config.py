"""What a recipe says about the shape of a model: one strict record for every architecture."""

from typing import Literal

import msgspec

Architecture = Literal["rnn", "gru", "lstm", "transformer"]
Positions = Literal["learned", "sinusoidal"]
Activation = Literal["relu", "gelu"]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of a trainable network; `training.models.build` turns it into a module.

    Transformers are always pre-norm (Xiong et al. 2020), with biases in every projection; dropout falls on
    the embeddings and on what each sub-layer adds, not on the attention weights.

    Attributes:
        architecture: recurrent cell, or `transformer`.
        layers: depth; for translators, of the encoder and of the decoder unless the next two say otherwise.
        encoder_layers: depth of a Transformer's encoder; 0 = `layers`.
        decoder_layers: depth of a Transformer's decoder; 0 = `layers`.
        hidden: width of the state, or of the residual stream.
        heads: attention heads (Transformer); `hidden` is a multiple of it.
        feedforward: width of the inner feed-forward layer (Transformer); 0 = 4 * hidden.
        embedding: width of the token vectors of a recurrent model; 0 = one-hot input, as in the course.
        dropout: probability, used in training mode only.
        tied: the output layer reads the input embedding, transposed (Press and Wolf 2017). For translators
            the three matrices are one (source, target, output), as in Vaswani et al. 2017.
        attention: recurrent translators: Luong's attention over the source, or the last state alone.
        bidirectional: recurrent translators: the encoder reads both ways, each with half of `hidden`.
        positions: learned table, or sinusoids computed on the fly (Transformer); None = learned for language
            models, sinusoidal for translators.
        max_positions: length of the learned table.
        activation: of the feed-forward layer.
    """

    architecture: Architecture
    layers: int = 1
    encoder_layers: int = 0
    decoder_layers: int = 0
    hidden: int = 128
    heads: int = 4
    feedforward: int = 0
    embedding: int = 0
    dropout: float = 0.0
    tied: bool = False
    attention: bool = True
    bidirectional: bool = False
    positions: Positions | None = None
    max_positions: int = 512
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("encoder_layers", "decoder_layers", "feedforward", "embedding"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError("dropout must be in [0, 1)")
        if self.recurrent:
            self._check_recurrent()
        else:
            self._check_transformer()

    def _check_recurrent(self) -> None:
        if self.tied and not self.embedding:
            raise ValueError("tied needs an embedding; with embedding = 0 the input is one-hot")
        if self.encoder_layers or self.decoder_layers:
            raise ValueError("a recurrent encoder hands its state to the decoder: both have `layers` layers")
        if self.bidirectional and self.hidden % 2:
            raise ValueError("hidden must be even when bidirectional")

    def _check_transformer(self) -> None:
        if self.hidden % self.heads:
            raise ValueError("hidden must be a multiple of heads")
        if self.hidden % 2:
            raise ValueError("hidden must be even")
        if self.embedding not in (0, self.hidden):
            raise ValueError("a Transformer's embedding is as wide as hidden: leave embedding out")

    @property
    def recurrent(self) -> bool:
        """Whether the state is a recurrent one."""
        return self.architecture != "transformer"

    @property
    def encoder_depth(self) -> int:
        """Layers of the encoder."""
        return self.encoder_layers or self.layers

    @property
    def decoder_depth(self) -> int:
        """Layers of the decoder."""
        return self.decoder_layers or self.layers

    @property
    def inner(self) -> int:
        """Width of the feed-forward layer."""
        return self.feedforward or 4 * self.hidden
