"""Checkpoints: what a job needs to go on as if it had never stopped, and the weights that it is worth.

A file is written beside its final name, flushed to the disk and renamed: a crash, a kill or a full disk in
the middle leaves the one before it whole. ``last.pt`` resumes; ``best.pt`` (weights only) is what is
exported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from bundle.errors import VoisinError
from bundle.tokenizer import Tokenizer
from training.config import Recipe, load_recipe
from training.models import build

CHECKPOINTS = "checkpoints"
LAST = "last.pt"
BEST = "best.pt"
RECIPE = "recipe.toml"
TOKENIZER = "tokenizer.json"


class CheckpointError(VoisinError):
    """A checkpoint that cannot be written or read: which file, and why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint in place of the one before it, or raises :class:`CheckpointError` and leaves that
    one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as error:  # torch's writer reports a failed write as RuntimeError
        beside.unlink(missing_ok=True)
        reason = _root(error)
        kept = "; the checkpoint before it is kept" if path.exists() else ""
        raise CheckpointError(path, f"cannot be written: {reason}{kept}") from error


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, weights and plain values only. Raises :class:`CheckpointError`."""
    try:
        return cast(dict[str, Any], torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from None
    except Exception as error:  # a damaged file surfaces as any of a dozen types
        raise CheckpointError(path, f"damaged, or no checkpoint of ours ({type(error).__name__})") from error


def load_model(run_folder: str | os.PathLike[str]) -> tuple[nn.Module, Recipe]:
    """Rebuilds a run's model from the folder alone.

    Returns:
        The module in evaluation mode with the best weights (the averaged ones where the recipe averages; the
        last where nothing was evaluated yet), and the recipe, its paths as written.

    Raises:
        CheckpointError, RecipeError, BundleError: naming the file.
    """
    folder = Path(run_folder)
    recipe = load_recipe(folder / RECIPE, expand=False)
    if recipe.kind == "vectors" or recipe.model is None:
        raise CheckpointError(folder, f"a run of kind {recipe.kind} has no checkpoints")
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    model: nn.Module = build(recipe.kind, recipe.model, tokenizer.size)
    best = folder / CHECKPOINTS / BEST
    place = best if best.exists() else folder / CHECKPOINTS / LAST
    state = load(place)
    try:
        model.load_state_dict(state.get("averaged") or state["model"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(place, f"does not fit the recipe beside it: {error}") from error
    return model.eval(), recipe


def _root(error: BaseException) -> str:
    """The operating system's own words, if they are somewhere in the chain."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0]
