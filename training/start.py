"""Beginning with the weights of an earlier run instead of random ones: to train on, or on one's own text.

What is taken is the tokenizer, the known words and the best weights; the optimiser starts afresh, and so
does the reading of the corpora. Where the earlier run read its text stays on the record.

A run in other languages has a tokenizer of its own. Of the earlier weights, it takes those of tokens that
both have; a token that is new starts at random (the transfer of Zoph et al. 2016, arXiv:1604.02201).
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import msgspec
import torch
from torch import nn

from bundle.lexicon import LEXICON
from bundle.tokenizer import Tokenizer
from training.checkpoint import RECIPE, TOKENIZER, load_model
from training.config import Recipe, RecipeError, encode_recipe, load_recipe, recipe_from
from training.corpus import Digest
from training.models import build

CORPORA = "corpora.json"


def begun(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with a note of the run that it begins with.

    Raises:
        RecipeError: no run is there, or one whose weights or tokenizer cannot be those of this recipe.
    """
    before = load_recipe(folder / RECIPE, expand=False)
    for part in ("kind", "model"):
        if getattr(before, part) != getattr(recipe, part):
            raise RecipeError(folder / RECIPE, f"{part} differs from the recipe given: no run to begin with")
    if before.tokenizer.level != recipe.tokenizer.level:
        raise RecipeError(folder / RECIPE, f"its tokenizer is of level {before.tokenizer.level}")
    return msgspec.structs.replace(recipe, start=before.start or before.name)


def still_begun(folder: Path, text: str) -> tuple[Path | None, str]:
    """A resumed run began with what it began with: the folder that remembers its corpora, and its recipe.

    Args:
        text: the recipe that the run is resumed with.

    Raises:
        RecipeError: the run's own recipe cannot be read.
    """
    start = load_recipe(folder / RECIPE, expand=False).start
    if not start:
        return None, text
    return folder, encode_recipe(msgspec.structs.replace(recipe_from(tomllib.loads(text)), start=start))


def speaks(recipe: Recipe, start: Path) -> bool:
    """Whether the run `start` is in the languages of this recipe, so that its tokenizer serves."""
    return load_recipe(start / RECIPE, expand=False).languages == recipe.languages


def copy_tokenizer(start: Path, folder: Path) -> None:
    """Takes over the tokenizer, and the known words where there are any. Raises OSError."""
    shutil.copyfile(start / TOKENIZER, folder / TOKENIZER)
    if (start / LEXICON).exists():
        shutil.copyfile(start / LEXICON, folder / LEXICON)


def copy_weights(start: Path, model: nn.Module, tokenizer: Tokenizer) -> None:
    """Sets a model's weights to the best ones of a run, token by token where the tokenizers differ.

    Raises CheckpointError, RecipeError, BundleError.
    """
    before, recipe = load_model(start)
    theirs = Tokenizer.load(start / TOKENIZER)
    weights = before.state_dict()
    if theirs.to_json() != tokenizer.to_json():
        known = {theirs.token_of(index): index for index in range(theirs.size)}
        pairs = [
            (index, known[token])
            for index in range(tokenizer.size)
            if (token := tokenizer.token_of(index)) in known
        ]
        here, there = (torch.tensor(side) for side in zip(*pairs, strict=True))
        fresh = model.state_dict()
        for name, axis in _vocabulary_axes(recipe).items():
            taken = weights[name].index_select(axis, there)
            weights[name] = fresh[name].clone().index_copy(axis, here, taken)
    model.load_state_dict(weights)


def _vocabulary_axes(recipe: Recipe) -> dict[str, int]:
    """Which axis of which parameter counts tokens: the one that a larger vocabulary makes longer."""
    assert recipe.model is not None
    assert recipe.kind != "vectors"
    with torch.device("meta"):
        small, large = (build(recipe.kind, recipe.model, size).state_dict() for size in (8, 9))
    return {
        name: next(axis for axis, length in enumerate(large[name].shape) if length != value.shape[axis])
        for name, value in small.items()
        if value.shape != large[name].shape
    }


def read_before(start: Path, corpora: list[Digest]) -> list[Digest]:
    """These corpora, and those that the run `start` read: weights remember all of them.

    Raises:
        RecipeError: `corpora.json` of that run cannot be read.
    """
    path = start / CORPORA
    try:
        before = msgspec.json.decode(path.read_bytes(), type=list[Digest])
    except (OSError, msgspec.MsgspecError) as error:
        raise RecipeError(path, str(error)) from None
    return [*corpora, *(digest for digest in before if digest not in corpora)]
