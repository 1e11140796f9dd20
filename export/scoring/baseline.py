"""The n-gram baseline beside a language model: the same tokens, the same test text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec
import numpy as np

from bundle.language import Language
from export import ExportError
from export.ngram import KneserNey
from export.scores import Score
from export.scoring.language import sizes
from training import corpus
from training.config import Recipe

ORDERS = {"char": 8, "word": 5, "bpe": 5}
"""Length of the longest n-gram where none is asked for."""


def train_ngrams(model: Language, recipe: Recipe, *, tokens: int, order: int = 0) -> KneserNey:
    """Counts the training side of the recipe's corpora in the bundle's own tokens.

    Every corpus is read once, whole. Repeated text has no n-gram that occurs once, and the discounts are
    estimated from those; and where the recipe reads a part, the run may have begun with the weights of one
    that read the rest.

    tokens: read at most so many; 0 is all there are.
    order: 0 chooses by the tokenizer's level, as high as the number of ids allows.

    Raises:
        CorpusError: a corpus is missing.
        ExportError: there is nothing to count, or the order is too high.
    """
    special, size = model.manifest.special, model.tokenizer.size
    assert special.bos is not None
    wanted = order or min(ORDERS[model.manifest.level], KneserNey.highest(size))
    never = () if special.pad is None else (special.pad,)
    stream = _stream(model, _training_lines(recipe), tokens)
    try:
        return KneserNey(stream, order=wanted, size=size, bos=special.bos, never=never)
    except ValueError as error:
        raise ExportError(f"{model.manifest.name}: n-grams: {error}") from None


def ngram_scores(
    ngrams: KneserNey, model: Language, lines: Sequence[str], *, name: str, command: str
) -> list[Score]:
    """Bits per character and perplexity per word of the n-grams, counted as the model's own are."""
    encoded = [_line(model, line).tolist() for line in lines]
    nats = -sum(float(line.sum()) for line in ngrams.log_probabilities(encoded))
    words, characters = sizes(lines)
    score = partial(
        Score,
        set=name,
        size=len(lines),
        unit="lines",
        command=command,
        part="ngram",
        note=f"{ngrams.order}-grams of {ngrams.tokens:,} tokens, modified Kneser-Ney",
    )
    return [
        score(metric="bits per character", value=nats / math.log(2) / characters),
        score(metric="perplexity per word", value=math.exp(nats / words)),
    ]


def _training_lines(recipe: Recipe) -> Iterator[str]:
    share = recipe.corpus.held_out
    sources = [msgspec.structs.replace(source, weight=1.0) for source in recipe.corpus.sources]
    return corpus.lines(
        sources,
        language=recipe.languages[0],
        held_out=share,
        split="train" if share else "all",
        seed=recipe.seed,
    )


def _stream(model: Language, lines: Iterator[str], most: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    parts, count = [], 0
    for line in lines:
        ids = _line(model, line)
        parts.append(ids)
        count += len(ids) - 1  # <bos> is none that is predicted
        if most and count >= most:
            break
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def _line(model: Language, line: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    special = model.manifest.special
    return np.array([special.bos, *model.tokenizer.encode(line), special.eos], np.int32)
