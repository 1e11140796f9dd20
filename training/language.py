"""Language models: the task that the loop trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from bundle.tokenizer import Tokenizer
from training import corpus
from training.batching import (
    IGNORE,
    LanguageBatch,
    NoData,
    Position,
    Stream,
    language_chunks,
    line_batches,
)
from training.config import Recipe
from training.device import device_of, tensor
from training.evaluate import language_scores
from training.generate import complete
from training.group import ALONE, Group
from training.loss import cross_entropy
from training.models.contract import Model, State, detached

#: the final evaluation reads so many times more than those in between
FINAL = 10


class LanguageTask:
    """Next-token prediction over packed lines; recurrent models carry their state from window to window.

    Args:
        group: the processes that share the rows of each batch, and with them the states of the rows.
    """

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, model: Model, group: Group = ALONE) -> None:
        self.model: nn.Module = model
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.group = group
        self._state: State | None = None
        self._rows = 0  # of the last batch, in all processes
        special = tokenizer.special
        assert special.bos is not None
        assert special.eos is not None
        self.bos, self.eos, self.pad = special.bos, special.eos, special.pad or 0
        self.carried = model.config.recurrent
        self._held_out: tuple[list[str], list[LanguageBatch]] | None = None
        self._stream = self._open(Position())

    def next_batch(self) -> LanguageBatch:
        return next(self._stream)

    def loss(self, batch: LanguageBatch) -> Tensor:
        self._rows = len(batch.ids)
        batch = batch.part(self.group.rows(self._rows))
        state = self._continued(batch)
        logits, after = self.model(tensor(batch.ids, self.model), state)
        if self.carried:
            self._state = detached(after)
        smoothing = self.recipe.train.label_smoothing
        return cross_entropy(logits, tensor(batch.targets, self.model), smoothing=smoothing, ignore=IGNORE)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        if self._held_out is None:
            self._held_out = self._read_held_out(self.recipe.train.evaluate_lines)
        lines, batches = self._held_out
        return language_scores(model, batches, lines)

    def final(self, model: nn.Module) -> dict[str, float | str]:
        """Scores for the card, on more text than :meth:`evaluate` reads."""
        lines, batches = self._read_held_out(FINAL * self.recipe.train.evaluate_lines)
        share = self.recipe.corpus.held_out
        name = (
            f"development half of the held-out {share:.2%} of the corpora by hash"
            if share
            else "the training text itself"
        )
        return {**language_scores(model, batches, lines), "set": name, "lines": len(lines)}

    def samples(self, model: nn.Module) -> list[str]:
        """What the model makes of the recipe's samples, to look at."""
        prompts = self.recipe.train.samples
        length = 100 if self.tokenizer.level == "char" else 40
        texts = complete(cast(Model, model), self.tokenizer, prompts, max_tokens=length)
        return [f"{prompt} | {text}" for prompt, text in zip(prompts, texts, strict=True)]

    def state(self) -> dict[str, Any]:
        return {"stream": asdict(self._stream.position), "carried": self._collected()}

    def restore(self, state: dict[str, Any]) -> None:
        self._stream = self._open(Position(**state["stream"]))
        carried: State | None = state["carried"]
        if carried is None:
            self._state = None
            return
        here = device_of(self.model)
        self._rows = len(next(iter(carried.values())))
        mine = self.group.rows(self._rows)
        if mine.start == mine.stop:  # the row that carries no loss
            mine = slice(0, 1)
        self._state = {name: value[mine].to(here) for name, value in carried.items()}

    def _collected(self) -> State | None:
        """The states of all rows in process 0, whichever process each is in."""
        if self._state is None or self.group.size == 1:
            return self._state
        mine = self.group.rows(self._rows)
        parts = self.group.collect(
            {name: value[: mine.stop - mine.start].cpu() for name, value in self._state.items()}
        )
        return {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}

    def _open(self, position: Position) -> Stream[str, LanguageBatch]:
        train = self.recipe.train
        cut = language_chunks(
            self.tokenizer,
            bos=self.bos,
            eos=self.eos,
            rows=max(1, train.batch_tokens // train.sequence),
            sequence=train.sequence,
            carried=self.carried,
        )
        corpora = self.recipe.corpus
        return Stream(self._lines, cut, size=corpora.shuffle, seed=self.recipe.seed, position=position)

    def _lines(self, epoch: int) -> Iterator[str]:
        share = self.recipe.corpus.held_out
        return corpus.lines(
            self.recipe.corpus.sources,
            language=self.recipe.languages[0],
            held_out=share,
            split="train" if share else "all",
            seed=self.recipe.seed + epoch,
        )

    def _read_held_out(self, count: int) -> tuple[list[str], list[LanguageBatch]]:
        share = self.recipe.corpus.held_out
        lines = corpus.lines(
            self.recipe.corpus.sources,
            language=self.recipe.languages[0],
            held_out=share,
            split="development" if share else "all",
            seed=self.recipe.seed,
        )
        chosen = list(islice(lines, count))
        if not chosen:
            raise NoData(f"corpus.held_out = {share} leaves no line to evaluate on")
        batches = line_batches(
            self.tokenizer,
            chosen,
            bos=self.bos,
            eos=self.eos,
            pad=self.pad,
            batch_tokens=max(8192, self.recipe.train.sequence),
            longest=0 if self.carried else self.recipe.train.sequence,
        )
        return chosen, batches

    def _continued(self, batch: LanguageBatch) -> State | None:
        """The state carried into a batch; rows that begin afresh get zeros."""
        if self._state is None or batch.fresh.all():
            return None
        keep = tensor(~batch.fresh, self.model)[:, None]
        return {name: tensor * keep.to(tensor.dtype) for name, tensor in self._state.items()}
