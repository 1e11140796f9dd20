"""The first run of a shape on a GPU takes memory and loads kernels: done at start, before anybody waits."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import islice
from time import perf_counter

import numpy as np

from bundle.errors import BundleError
from bundle.language import Language
from bundle.load import Model
from bundle.stepper import Prompt
from bundle.translator import Translator
from bundle.vectors import Vectors
from service.registry import Opened

logger = logging.getLogger("voisin")

_SHORT = 8
"""Tokens of a short text; the other length is the longest that the model reads."""


def warm_gpu(opened: Iterable[Opened], *, rows: int) -> None:
    """Run whatever a GPU runs at the shapes that requests will have; what the CPU runs is left alone.

    Args:
        rows: most rows of one step (`VOISIN_BATCH_ROWS`).

    Raises:
        BundleError: a model cannot do so much at once.
    """
    for each in opened:
        if each.model.provider.startswith("CPU"):
            continue
        started = perf_counter()
        try:
            runs = warm(each.model, rows)
        except Exception as error:  # of the runtime, which has its own for memory that is not there
            reason = str(error).strip().partition("\n")[0]
            advice = "lower VOISIN_BATCH_ROWS, or raise VOISIN_DEVICE_BYTES where it is set"
            raise BundleError(
                each.folder, f"{rows} rows at once are too many ({reason}): {advice}"
            ) from error
        data = {"model": each.name, "provider": each.model.provider, "runs": runs}
        logger.info("warmed", extra={"data": data | {"seconds": round(perf_counter() - started, 3)}})


def warm(model: Model, rows: int) -> int:
    """Run a model at every number of rows of :func:`row_counts`, with short texts and the longest.

    The largest come first: the memory that they leave holds whatever is smaller, so that the device is asked
    for little more.

    Returns:
        How often it was run.
    """
    if isinstance(model, Vectors):
        # a sum of two words stands in no table of neighbours
        words = list(islice((word for word in model.tokenizer.words() if word in model), 2))
        model.most_similar(words, topn=10)
        return 1
    stepper, runs = model.stepper, 0
    for length in _lengths(model):
        prompt = _prompt(model, length)
        for count in row_counts(rows):
            ids = np.full(count, prompt.ids[0], np.int64)
            _, state = stepper.begin([prompt] * count, logits=True)
            state = stepper.select(state, np.arange(count)[::-1])
            _, state = stepper.advance(state, ids, logits=True)
            runs += 2
        both = stepper.join([state, stepper.begin([prompt], logits=True)[1]])
        stepper.advance(both, np.full(2, prompt.ids[0], np.int64), logits=True)
        runs += 2
    return runs


def row_counts(rows: int) -> list[int]:
    """`rows` and the powers of two below, the largest first."""
    return sorted({rows, *(1 << power for power in range((rows - 1).bit_length()))}, reverse=True)


def _lengths(model: Language | Translator) -> list[int]:
    limits = model.manifest.limits
    longest = limits.prompt_tokens
    if isinstance(model, Language) and limits.context_tokens:
        longest = min(longest, limits.context_tokens - 2)  # two more are written
    return sorted({max(1, longest), min(_SHORT, max(1, longest))}, reverse=True)


def _prompt(model: Language | Translator, length: int) -> Prompt:
    """Tokens that any model has: what they say changes no shape."""
    special = model.manifest.special
    first, last = special.bos or 0, special.eos or 0
    if isinstance(model, Translator):
        return Prompt((first,), (first,) * (length - 1) + (last,))
    return Prompt((first,) * length)
