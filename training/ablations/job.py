"""One side of a comparison, trained from a recipe by the code that trains everything else.

Time is processor time of the training steps alone: it is the same beside other work, and leaves out what
reading, tokenizers and evaluations cost. A recipe's ``minutes`` are taken as such time and turned into steps
before the training begins, by the pace of its first steps, so that the schedule follows steps alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import cast

import msgspec
import torch

from bundle.tokenizer import Tokenizer
from training import checkpoint, corpus
from training.batching import LanguageBatch, line_batches
from training.checkpoint import TOKENIZER
from training.config import Recipe, RecipeError, encode_recipe, load_recipe
from training.loop import Loop
from training.models import Language, Model, count_parameters
from training.prepare import make_task, make_tokenizer

RECIPES = Path(__file__).parents[1] / "recipes" / "ablations"

#: steps whose pace decides how many fit into the minutes, after as many to warm up
PACE_STEPS = 10
_TIMES = "times.json"


@dataclass(frozen=True)
class Trained:
    """A model and what it cost.

    parameters: trainable numbers, a tied matrix once.
    tokens: targets it was trained on.
    seconds: processor time of its training steps.
    """

    model: Model
    tokenizer: Tokenizer
    recipe: Recipe
    parameters: int
    steps: int
    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens trained on in a second of processor time."""
        return self.tokens / max(self.seconds, 1e-9)


@dataclass
class Job:
    """An experiment under way.

    folder: where each side has its run folder.
    overrides: what the command line changes in every recipe, after the side's own changes.
    seconds: processor time of all training so far, of runs found ready too.
    """

    folder: Path
    overrides: Sequence[str] = ()
    seconds: float = field(default=0.0, init=False)

    def recipe(self, name: str, *changes: str) -> Recipe:
        """A recipe of the ablations, changed as by ``--set``. Raises RecipeError."""
        return load_recipe(RECIPES / f"{name}.toml", [*changes, *self.overrides])

    def train(self, recipe: Recipe, side: str) -> Trained:
        """Trains a language model or a translator into the side's run folder.

        A run that is there already, of the same recipe and complete, is not repeated.

        Raises:
            RecipeError: the folder holds another run.
            VoisinError: what training raises.
        """
        assert recipe.model is not None
        assert recipe.kind != "vectors"
        times = self.times(recipe, side)
        if times is None:
            self._run(recipe, self.begin(recipe, side), side)
            times = self.times(recipe, side)
            assert times is not None
        folder = self.folder / side
        model, _ = checkpoint.load_model(folder)
        return Trained(
            model=cast(Model, model),
            tokenizer=Tokenizer.load(folder / TOKENIZER),
            recipe=recipe,
            parameters=count_parameters([model]),
            steps=int(times["steps"]),
            tokens=int(times["tokens"]),
            seconds=times["seconds"],
        )

    def times(self, recipe: Recipe, side: str) -> dict[str, float] | None:
        """What :meth:`finish` kept of a side's run; None where it has not come to its end.

        Raises: RecipeError where the run is of another recipe.
        """
        folder = self.folder / side
        if not (folder / _TIMES).exists():
            return None
        if load_recipe(folder / checkpoint.RECIPE, expand=False) != recipe:
            raise RecipeError(
                folder, "holds a run of another recipe; --again removes it, --runs names another"
            )
        times: dict[str, float] = json.loads((folder / _TIMES).read_text(encoding="utf-8"))
        self.seconds += times["seconds"]
        return times

    def begin(self, recipe: Recipe, side: str) -> Path:
        """The side's run folder, with the recipe in it."""
        folder = self.folder / side
        folder.mkdir(parents=True, exist_ok=True)
        (folder / checkpoint.RECIPE).write_text(encode_recipe(recipe), encoding="utf-8")
        return folder

    def finish(self, side: str, times: Mapping[str, float]) -> None:
        """Says that the side's run is complete, and what it cost; ``seconds`` among it."""
        (self.folder / side / _TIMES).write_text(json.dumps(times) + "\n", encoding="utf-8")

    def _run(self, recipe: Recipe, folder: Path, side: str) -> None:
        torch.set_num_threads(1)
        make_tokenizer(recipe, folder / TOKENIZER)
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        if recipe.train.minutes:
            steps = _fitting(recipe, tokenizer, folder)
            recipe = msgspec.structs.replace(
                recipe, train=msgspec.structs.replace(recipe.train, minutes=0.0, steps=steps)
            )
        loop = make_loop(recipe, tokenizer, folder, encode_recipe(recipe))
        print(
            f"{side}: {count_parameters([loop.task.model]):,} parameters, {tokenizer.size:,} ids, "
            f"{recipe.train.steps:,} steps",
            file=sys.stderr,
        )
        loop.run()
        self.finish(side, {"steps": loop.step, "tokens": loop.tokens, "seconds": round(loop.seconds, 1)})


class TimedLoop(Loop):
    """The loop, counting tokens and the processor time of its steps."""

    seconds = 0.0
    tokens = 0

    def advance(self) -> tuple[float, int]:
        begun = time.process_time()
        loss, count = super().advance()
        self.seconds += time.process_time() - begun
        self.tokens += count
        return loss, count


def unseen_lines(recipe: Recipe, count: int) -> list[str]:
    """The first so many lines of the test half of what the recipe holds out."""
    share = recipe.corpus.held_out
    lines = corpus.lines(
        recipe.corpus.sources,
        language=recipe.languages[0],
        held_out=share,
        split="test" if share else "all",
        seed=recipe.seed,
    )
    return list(islice(lines, count))


def batches_of(trained: Trained, lines: Sequence[str]) -> list[LanguageBatch]:
    """Lines as batches for a language model, each line from ``bos`` on by itself."""
    special = trained.tokenizer.special
    assert special.bos is not None
    assert special.eos is not None
    return line_batches(
        trained.tokenizer,
        lines,
        bos=special.bos,
        eos=special.eos,
        pad=special.pad or 0,
        batch_tokens=8192,
        longest=0 if trained.model.config.recurrent else trained.recipe.train.sequence,
    )


def language_of(trained: Trained) -> Language:
    """The model as a language model."""
    assert isinstance(trained.model, Language)
    return trained.model


def _fitting(recipe: Recipe, tokenizer: Tokenizer, folder: Path) -> int:
    """Steps that fit into the recipe's minutes, by the pace of a model thrown away."""
    loop = make_loop(recipe, tokenizer, folder, "")
    for _ in range(PACE_STEPS):
        loop.advance()
    loop.seconds = 0.0
    for _ in range(PACE_STEPS):
        loop.advance()
    return max(1, min(recipe.train.steps, int(60 * recipe.train.minutes * PACE_STEPS / loop.seconds)))


def make_loop(recipe: Recipe, tokenizer: Tokenizer, folder: Path, text: str) -> TimedLoop:
    """A fresh model of the recipe, ready to train; ``text`` is what its checkpoints keep of the recipe."""
    return TimedLoop(make_task(recipe, tokenizer), recipe.train, folder, name=recipe.name, text=text)
