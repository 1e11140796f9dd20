"""What the manifest says where the recipe is silent: limits and decoding defaults."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from bundle.manifest import Decoding, Limits, Subwords
from training.config import Recipe

PROMPT_TOKENS = 1024
"""Longest prompt of a model whose state does not grow."""

NEW_TOKENS = 512

BEAM = 4


def limits(recipe: Recipe) -> Limits:
    """The recipe's limits, or those that its training supports.

    A Transformer is asked for no position that its training windows did not reach: an answer ends there, and
    a prompt leaves it a quarter at least. A translator may answer with half as many tokens again as its
    longest training sentence.
    """
    if recipe.limits is not None:
        return recipe.limits
    model, train = recipe.model, recipe.train
    if model is None:
        return Limits(prompt_tokens=PROMPT_TOKENS, new_tokens=0)
    table = model.max_positions if not model.recurrent and positions(recipe) == "learned" else 0
    if recipe.kind == "translator":
        longest = min(train.max_tokens, table) if table else train.max_tokens
        answer = longest + longest // 2
        return Limits(
            prompt_tokens=longest,
            new_tokens=min(answer, table - 1) if table else answer,
            context_tokens=table,
        )
    if model.recurrent:
        return Limits(prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)
    window = min(train.sequence, table) if table else train.sequence
    return Limits(prompt_tokens=max(1, window * 3 // 4), new_tokens=window, context_tokens=window)


def positions(recipe: Recipe) -> str:
    """How a Transformer is told the places of tokens."""
    assert recipe.model is not None
    return recipe.model.positions or ("learned" if recipe.kind == "language" else "sinusoidal")


def subwords(recipe: Recipe) -> Subwords | UnsetType:
    """How words never seen are composed, where the recipe trains their n-grams."""
    config = recipe.vectors
    if config is None or not config.subwords:
        return UNSET
    return Subwords(min_n=config.min_n, max_n=config.max_n, bucket=config.bucket)


def decoding(recipe: Recipe, bounds: Limits) -> Decoding:
    """The recipe's decoding, or beam search for a translator and greedy completion for a language model."""
    if recipe.decoding is not None:
        return recipe.decoding
    if recipe.kind == "translator":
        return Decoding(max_tokens=bounds.new_tokens, beam=BEAM)
    return Decoding(max_tokens=max(1, min(Decoding().max_tokens, bounds.new_tokens)))
