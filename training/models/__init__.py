"""The trainable networks, by kind and architecture."""

from typing import Literal

from training.models.config import ModelConfig
from training.models.contract import Language, Model, State, Translator, count_parameters, detached
from training.models.presets import PRESETS, expand
from training.models.recurrent import RecurrentLanguage, RecurrentTranslator
from training.models.transformer import TransformerLanguage, TransformerTranslator

__all__ = [
    "PRESETS",
    "Language",
    "Model",
    "ModelConfig",
    "State",
    "Translator",
    "build",
    "count_parameters",
    "detached",
    "expand",
]


def build(kind: Literal["language", "translator"], config: ModelConfig, vocab_size: int) -> Model:
    """A freshly initialised network.

    Args:
        kind: what it is for.
        config: its shape.
        vocab_size: number of token ids; translators share one vocabulary between both languages.

    Returns:
        A `Language` or a `Translator`.

    Raises:
        ValueError: unknown kind, or no tokens.
    """
    if vocab_size < 1:
        raise ValueError("vocab_size must be at least 1")
    if kind == "language":
        language: type[Language] = RecurrentLanguage if config.recurrent else TransformerLanguage
        return language(config, vocab_size)
    if kind == "translator":
        translator: type[Translator] = RecurrentTranslator if config.recurrent else TransformerTranslator
        return translator(config, vocab_size)
    raise ValueError(f"no model of kind {kind!r}")
