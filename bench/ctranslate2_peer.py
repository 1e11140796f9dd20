"""CTranslate2's model of a Transformer's weights, for comparing engines on equal terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ctranslate2.specs import common_spec, transformer_spec
from numpy.typing import NDArray

from training.models.attention import Attention
from training.models.transformer import (
    Block,
    CrossBlock,
    Embedding,
    TransformerLanguage,
    TransformerTranslator,
)

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_ACTIVATIONS = {"gelu": common_spec.Activation.GELU, "relu": common_spec.Activation.RELU}


def tokens(vocab: int) -> list[str]:
    """Names of ids: CTranslate2 speaks in tokens."""
    return [*SPECIAL, *(f"t{id}" for id in range(len(SPECIAL), vocab))]


def write(
    model: TransformerLanguage | TransformerTranslator,
    folder: Path,
    *,
    quantization: Literal["float32", "int8"],
    positions: int = 512,
) -> None:
    """Writes the converted model; `positions` are tabulated."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    names = tokens(model.vocab_size)
    if isinstance(model, TransformerTranslator):
        spec: Any = transformer_spec.TransformerSpec.from_config(
            (config.encoder_depth, config.decoder_depth),
            config.heads,
            pre_norm=True,
            activation=_ACTIVATIONS[config.activation],
        )
        _embed(spec.encoder, model.source_embedding, positions, list_of=True)
        for target, block in zip(spec.encoder.layer, model.encoder.layers, strict=True):
            _block(target, block)
        _norm(spec.encoder.layer_norm, model.encoder.norm)
        _embed(spec.decoder, model.target_embedding, positions)
        for target, cross in zip(spec.decoder.layer, model.decoder.layers, strict=True):
            _block(target, cross)
            _attend(target.attention, cross.cross_attention, cross.cross_norm, cross=True)
        spec.register_source_vocabulary(names)
        spec.register_target_vocabulary(names)
        spec.config.decoder_start_token = SPECIAL[1]
    else:
        spec = transformer_spec.TransformerDecoderModelSpec.from_config(
            config.decoder_depth,
            config.heads,
            pre_norm=True,
            activation=_ACTIVATIONS[config.activation],
        )
        _embed(spec.decoder, model.embedding, positions)
        for target, block in zip(spec.decoder.layer, model.decoder.layers, strict=True):
            _block(target, block)
        spec.register_vocabulary(names)
    _norm(spec.decoder.layer_norm, model.decoder.norm)
    if model.output.free is None:
        embedding = model.embedding if isinstance(model, TransformerLanguage) else model.target_embedding
        spec.decoder.projection.weight = _numpy(embedding.tokens.weight)
    else:
        _linear(spec.decoder.projection, model.output.free.weight, model.output.free.bias)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = SPECIAL[1:]
    spec.validate()
    spec.optimize(quantization=None if quantization == "float32" else quantization)
    spec.save(str(folder))


def _embed(target: Any, embedding: Embedding, positions: int, *, list_of: bool = False) -> None:
    (target.embeddings[0] if list_of else target.embeddings).weight = _numpy(embedding.tokens.weight)
    target.scale_embeddings = embedding.scale != 1.0
    if embedding.positions is not None:
        table = embedding.positions.weight
    else:
        angle = torch.arange(positions)[:, None].float() * embedding.frequencies
        table = torch.cat([angle.sin(), angle.cos()], dim=-1)
    target.position_encodings.encodings = _numpy(table)


def _block(target: Any, block: Block | CrossBlock) -> None:
    _attend(target.self_attention, block.self_attention, block.self_norm)
    _norm(target.ffn.layer_norm, block.feedforward_norm)
    _linear(target.ffn.linear_0, block.feedforward.up.weight, block.feedforward.up.bias)
    _linear(target.ffn.linear_1, block.feedforward.down.weight, block.feedforward.down.bias)


def _attend(target: Any, module: Attention, norm: torch.nn.LayerNorm, *, cross: bool = False) -> None:
    _norm(target.layer_norm, norm)
    weight, bias, hidden = module.inputs.weight, module.inputs.bias, module.hidden
    parts = (
        [(weight[:hidden], bias[:hidden]), (weight[hidden:], bias[hidden:])] if cross else [(weight, bias)]
    )
    for place, (rows, offsets) in enumerate([*parts, (module.output.weight, module.output.bias)]):
        _linear(target.linear[place], rows, offsets)


def _linear(target: Any, weight: torch.Tensor, bias: torch.Tensor) -> None:
    target.weight, target.bias = _numpy(weight), _numpy(bias)


def _norm(target: Any, norm: torch.nn.LayerNorm) -> None:
    target.gamma, target.beta = _numpy(norm.weight), _numpy(norm.bias)


def _numpy(weight: torch.Tensor) -> NDArray[np.float32]:
    # a copy: its converter scales arrays where they lie, and these would be the model's own weights
    found: NDArray[np.float32] = weight.detach().float().numpy().copy()
    return found
