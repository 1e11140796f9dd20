"""Beginning with the weights of an earlier run instead of random ones: to train on, or on one's own text.

What is taken is the tokenizer, the known words and the best weights; the optimiser starts afresh, and so
does the reading of the corpora. Where the earlier run read its text stays on the record.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import msgspec
from torch import nn

from bundle.lexicon import LEXICON
from training.checkpoint import RECIPE, TOKENIZER, load_model
from training.config import Recipe, RecipeError, encode_recipe, load_recipe, recipe_from
from training.corpus import Digest

CORPORA = "corpora.json"


def begun(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with a note of the run that it begins with.

    Raises:
        RecipeError: no run is there, or one whose weights or tokenizer cannot be those of this recipe.
    """
    before = load_recipe(folder / RECIPE, expand=False)
    for part in ("kind", "languages", "model"):
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


def copy_tokenizer(start: Path, folder: Path) -> None:
    """Takes over the tokenizer, and the known words where there are any. Raises OSError."""
    shutil.copyfile(start / TOKENIZER, folder / TOKENIZER)
    if (start / LEXICON).exists():
        shutil.copyfile(start / LEXICON, folder / LEXICON)


def copy_weights(start: Path, model: nn.Module) -> None:
    """Sets a model's weights to the best ones of a run. Raises CheckpointError."""
    before, _ = load_model(start)
    model.load_state_dict(before.state_dict())


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
