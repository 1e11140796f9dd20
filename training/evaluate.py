"""Yardsticks: perplexity and bits per character of language models, BLEU and chrF of translators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor, nn

from training.batching import IGNORE, LanguageBatch, TranslationBatch
from training.device import tensor
from training.loss import cross_entropy

Batch = TypeVar("Batch", LanguageBatch, TranslationBatch)


def language_loss(model: nn.Module, batch: LanguageBatch) -> Tensor:
    """Nats, summed over the batch; every row starts from the zero state."""
    logits, _ = model(tensor(batch.ids, model))
    return cross_entropy(logits, tensor(batch.targets, model), ignore=IGNORE)


def translation_loss(model: nn.Module, batch: TranslationBatch) -> Tensor:
    """Nats, summed over the batch, without smoothing."""
    source, counts = tensor(batch.source, model), tensor(batch.source_counts, model)
    logits = model(source, counts, tensor(batch.target, model))
    return cross_entropy(logits, tensor(batch.targets, model), ignore=IGNORE)


def mean_loss(
    model: nn.Module, batches: Iterable[Batch], loss: Callable[[nn.Module, Batch], Tensor]
) -> tuple[float, int]:
    """Nats per token over all batches, and the tokens; the model in evaluation mode."""
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for batch in batches:
            total += loss(model, batch).item()
            tokens += batch.tokens
    return total / max(tokens, 1), tokens


def language_scores(
    model: nn.Module, batches: Sequence[LanguageBatch], lines: Sequence[str]
) -> dict[str, float]:
    """Scores of a language model on whole lines, each from ``bos`` on and without the lines before it.

    Args:
        batches: the lines' tokens (:func:`training.batching.line_batches`).
        lines: the same lines as text.

    Returns:
        ``loss`` (nats per token), ``perplexity`` (per token), ``perplexity_per_word`` (words between spaces)
        and ``bits_per_character``. The end of a line is a token, and counts as one word and one character.
    """
    loss, tokens = mean_loss(model, batches, language_loss)
    words = sum(len(line.split()) + 1 for line in lines)
    characters = sum(len(line) + 1 for line in lines)
    return {
        "loss": loss,
        "perplexity": _exp(loss),
        "perplexity_per_word": _exp(loss * tokens / max(words, 1)),
        "bits_per_character": loss * tokens / math.log(2) / max(characters, 1),
    }


def corpus_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) by sacrebleu, with its signatures (Post 2018).

    Where no reference has four words there is no 4-gram to find, and BLEU is left out.
    """
    bleu, chrf = BLEU(), CHRF()
    scores: dict[str, float | str] = {}
    if any(len(reference.split()) >= 4 for reference in references):
        scores["bleu"] = float(bleu.corpus_score(list(hypotheses), [list(references)]).score)
        scores["bleu_signature"] = str(bleu.get_signature())
    scores["chrf"] = float(chrf.corpus_score(list(hypotheses), [list(references)]).score)
    return scores | {"chrf_signature": str(chrf.get_signature())}


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
