"""Translators: the task that the loop trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from bundle.manifest import Decoding
from bundle.tokenizer import Tokenizer
from training import corpus
from training.augment import Names, augmented, find_names
from training.batching import (
    IGNORE,
    NoData,
    Position,
    Stream,
    TranslationBatch,
    bucket,
    encode_pairs,
    pad_pairs,
    translation_chunks,
)
from training.config import Augment, Recipe
from training.device import tensor
from training.evaluate import corpus_scores, mean_loss, translation_loss
from training.generate import translate
from training.group import ALONE, Group
from training.loss import cross_entropy
from training.models.contract import Model
from training.phrase_pairs import phrase_pairs
from training.subwords import SubwordDropout

#: the final evaluation reads so many times more pairs for the loss than those in between
FINAL = 10


class TranslationTask:
    """Teacher forcing over pairs of like length.

    Args:
        group: the processes that share the rows of each batch.
    """

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, model: Model, group: Group = ALONE) -> None:
        self.model: nn.Module = model
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.group = group
        special = tokenizer.special
        assert special.bos is not None
        assert special.eos is not None
        self.bos, self.eos, self.pad = special.bos, special.eos, special.pad or 0
        self.languages = (recipe.languages[0], recipe.languages[1])
        self._held_out: list[TranslationBatch] | None = None
        dropout = recipe.train.subword_dropout
        self._dropout = SubwordDropout(tokenizer.to_json(), dropout) if dropout else None
        self._material: tuple[list[tuple[str, str]], Names] | None = None
        self._stream = self._open(Position())

    def next_batch(self) -> TranslationBatch:
        return next(self._stream)

    def loss(self, batch: TranslationBatch) -> Tensor:
        batch = batch.part(self.group.rows(len(batch.source)))
        source, counts = tensor(batch.source, self.model), tensor(batch.source_counts, self.model)
        logits = self.model(source, counts, tensor(batch.target, self.model))
        smoothing = self.recipe.train.label_smoothing
        return cross_entropy(logits, tensor(batch.targets, self.model), smoothing=smoothing, ignore=IGNORE)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        if self._held_out is None:
            self._held_out = self._batches(self._read_held_out(self.recipe.train.evaluate_lines))
        loss, _ = mean_loss(model, self._held_out, translation_loss)
        return {"loss": loss}

    def final(self, model: nn.Module) -> dict[str, float | str]:
        """Scores for the card: the loss on more pairs, BLEU and chrF with the recipe's own decoding."""
        train = self.recipe.train
        pairs = self._read_held_out(FINAL * train.evaluate_lines)
        loss, _ = mean_loss(model, self._batches(pairs), translation_loss)
        pairs = pairs[: train.evaluate_translations]
        settings = self.recipe.decoding or Decoding()
        hypotheses = translate(
            cast(Model, model),
            self.tokenizer,
            [source for source, _ in pairs],
            max_tokens=train.max_tokens,
            beam=settings.beam,
            length_penalty=settings.length_penalty,
        )
        share = self.recipe.corpus.held_out
        name = (
            f"development half of the held-out {share:.2%} of the corpora by hash"
            if share
            else "the training pairs themselves"
        )
        scores = corpus_scores(hypotheses, [target for _, target in pairs])
        return {"loss": loss, **scores, "set": name, "sentences": len(pairs), "beam": settings.beam}

    def samples(self, model: nn.Module) -> list[str]:
        """What the model makes of the recipe's samples, to look at."""
        sentences = self.recipe.train.samples
        longest = self.recipe.train.max_tokens
        texts = translate(cast(Model, model), self.tokenizer, sentences, max_tokens=longest)
        return [f"{sentence} | {text}" for sentence, text in zip(sentences, texts, strict=True)]

    def state(self) -> dict[str, Any]:
        return {"stream": asdict(self._stream.position)}

    def restore(self, state: dict[str, Any]) -> None:
        self._stream = self._open(Position(**state["stream"]))

    def _open(self, position: Position) -> Stream[tuple[str, str], TranslationBatch]:
        train = self.recipe.train
        cut = translation_chunks(
            self._encode,
            bos=self.bos,
            eos=self.eos,
            pad=self.pad,
            batch_tokens=train.batch_tokens,
            max_tokens=train.max_tokens,
        )
        size = self.recipe.corpus.shuffle
        return Stream(self._pairs, cut, size=size, seed=self.recipe.seed, position=position)

    def _encode(self, text: str, random: np.random.Generator) -> list[int]:
        """Ids of a training text."""
        return self.tokenizer.encode(text) if self._dropout is None else self._dropout.encode(text, random)

    def _pairs(self, epoch: int) -> Iterator[tuple[str, str]]:
        pairs = self._sentences(self.recipe.seed + epoch)
        wishes = self.recipe.augment
        if wishes is None:
            return pairs
        if self._material is None:
            self._material = self._find_material(wishes)
        phrases, names = self._material
        return augmented(pairs, wishes, phrases=phrases, names=names, seed=(self.recipe.seed, epoch))

    def _sentences(self, seed: int) -> Iterator[tuple[str, str]]:
        share = self.recipe.corpus.held_out
        split: corpus.Split = "train" if share else "all"
        sources = self.recipe.corpus.sources
        return corpus.pairs(sources, self.languages, held_out=share, split=split, seed=seed)

    def _find_material(self, wishes: Augment) -> tuple[list[tuple[str, str]], Names]:
        """Phrase pairs and names, the same for every epoch and after every resumption."""
        phrases = []
        if wishes.phrases:
            sentences = self._sentences(self.recipe.seed)
            phrases = phrase_pairs(dict.fromkeys(sentences), self.languages, count=wishes.phrases)
        translated = [one for one, two in phrases if one != two]
        lines = corpus.lines(wishes.names, seed=self.recipe.seed) if wishes.names else []
        return phrases, find_names(lines, translated)

    def _read_held_out(self, count: int) -> list[tuple[str, str]]:
        share = self.recipe.corpus.held_out
        pairs = corpus.pairs(
            self.recipe.corpus.sources,
            self.languages,
            held_out=share,
            split="development" if share else "all",
            seed=self.recipe.seed,
        )
        chosen = list(islice(pairs, count))
        if not chosen:
            raise NoData(f"corpus.held_out = {share} leaves no pair to evaluate on")
        return chosen

    def _batches(self, pairs: list[tuple[str, str]]) -> list[TranslationBatch]:
        encoded = encode_pairs(self.tokenizer.encode, pairs, self.recipe.train.max_tokens)
        rows = bucket(encoded, max(4096, self.recipe.train.max_tokens + 1), None)
        return [pad_pairs([encoded[index] for index in some], self.bos, self.eos, self.pad) for some in rows]
