"""How well a language model predicts text: bits per character and perplexities."""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from bundle.language import Language
from bundle.sampling import log_softmax
from bundle.stepper import Prompt
from export import ExportError
from export.scores import Score
from training.batching import IGNORE, LanguageBatch, line_batches

BATCH_TOKENS = 4096


def language_scores(model: Language, lines: Sequence[str], *, name: str, command: str) -> list[Score]:
    """Bits per character and perplexities on whole lines, each from bos on and without the lines before it.

    The end of a line is a token, and counts as one word and one character. The floor is what a general
    compressor makes of the same text.
    """
    special = model.manifest.special
    if special.bos is None or special.eos is None:
        raise ExportError(f"{model.manifest.name}: the tokenizer lacks <bos> or <eos>")
    batches = line_batches(
        model.tokenizer,
        lines,
        bos=special.bos,
        eos=special.eos,
        pad=special.pad or 0,
        batch_tokens=BATCH_TOKENS,
        longest=model.manifest.limits.context_tokens,
    )
    nats = sum(_nats(model, batch) for batch in batches)
    tokens = sum(batch.tokens for batch in batches)
    words, characters = sizes(lines)
    packed = 8 * len(lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9))
    score = partial(Score, set=name, size=len(lines), unit="lines", command=command, part="perplexity")
    return [
        score(
            metric="bits per character",
            value=nats / math.log(2) / characters,
            floor=packed / characters,
            floor_is="xz -9",
            note=f"{characters:,} characters",
        ),
        score(metric="perplexity per token", value=math.exp(nats / tokens), note=f"{tokens:,} tokens"),
        score(metric="perplexity per word", value=math.exp(nats / words), note=f"{words:,} words"),
    ]


def sizes(lines: Sequence[str]) -> tuple[int, int]:
    """Words (between spaces) and characters of lines, the end of each counted as one of both."""
    return sum(len(line.split()) + 1 for line in lines), sum(len(line) + 1 for line in lines)


def _nats(model: Language, batch: LanguageBatch) -> float:
    """Negative log-probability of the batch's targets."""
    wanted = [np.flatnonzero(row != IGNORE) for row in batch.targets]
    prompts = [
        Prompt(ids=tuple(int(i) for i in ids[: places[-1] + 1]))
        for ids, places in zip(batch.ids, wanted, strict=True)
    ]
    total = 0.0
    for logits, targets, places in zip(model.stepper.score(prompts), batch.targets, wanted, strict=True):
        scores = log_softmax(logits[places])
        total -= float(scores[np.arange(len(places)), targets[places]].sum(dtype=np.float64))
    return total
