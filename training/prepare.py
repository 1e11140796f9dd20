"""What stands ready before the first step of a network: its tokenizer, its model, its task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bundle.tokenizer import Tokenizer
from training import corpus
from training.config import Recipe
from training.device import choose
from training.group import ALONE, Group
from training.language import LanguageTask
from training.models import build
from training.tokenizer import train_tokenizer
from training.translation import TranslationTask


def make_tokenizer(recipe: Recipe, path: Path) -> None:
    """Builds the recipe's tokenizer from the training side of its corpora.

    Raises:
        CorpusError: the text cannot be read.
        TokenizerError: there is none, or the vocabulary has no room for its alphabet.
    """
    settings = recipe.tokenizer
    train_tokenizer(
        _texts(recipe),
        path,
        level=settings.level,
        size=settings.size,
        lowercase=settings.lowercase,
        translator=recipe.kind == "translator",
        with_unk=settings.unknown,
        min_count=settings.min_count,
        plain=settings.plain,
        sample=settings.sample,
    )


def make_task(recipe: Recipe, tokenizer: Tokenizer, group: Group = ALONE) -> LanguageTask | TranslationTask:
    """A fresh model of the recipe on its device, with the text it learns from; the same in all processes.

    Sets torch's random numbers to the recipe's seed, after that to others in each process of a group, so that
    dropout does not leave out the same in all of them. Raises DeviceError where CUDA is asked for and absent.
    """
    assert recipe.model is not None
    assert recipe.kind != "vectors"
    torch.manual_seed(recipe.seed)
    model = build(recipe.kind, recipe.model, tokenizer.size).to(choose(recipe.train.device))
    if not group.leads:
        torch.manual_seed(int(np.random.SeedSequence([recipe.seed, group.rank]).generate_state(1)[0]))
    if recipe.kind == "language":
        return LanguageTask(recipe, tokenizer, model, group)
    return TranslationTask(recipe, tokenizer, model, group)


def _texts(recipe: Recipe) -> Iterator[str]:
    share = recipe.corpus.held_out
    split: corpus.Split = "train" if share else "all"
    sources, seed = recipe.corpus.sources, recipe.seed
    if recipe.kind == "translator":
        languages = (recipe.languages[0], recipe.languages[1])
        for pair in corpus.pairs(sources, languages, held_out=share, split=split, seed=seed):
            yield from pair
    else:
        language = recipe.languages[0]
        yield from corpus.lines(sources, language=language, held_out=share, split=split, seed=seed)
