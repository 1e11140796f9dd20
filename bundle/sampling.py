"""Choosing the next token from a distribution, so that chance can be repeated."""

from collections.abc import Sequence

import numpy as np

from bundle.stepper import Array

_COLD = 1e-6


def log_sum_exp(logits: Array) -> Array:
    """Logarithm of the sum of exponentials over the last axis, which is kept with length 1."""
    top = logits.max(axis=-1, keepdims=True)
    shifted = logits - top
    np.exp(shifted, out=shifted)
    return np.asarray(top + np.log(shifted.sum(axis=-1, keepdims=True)))


def log_softmax(logits: Array) -> Array:
    """Log-probabilities over the last axis; same shape, float32 in gives float32 out."""
    return np.asarray(logits - log_sum_exp(logits))


def philox(seed: int, choice: int, step: int) -> float:
    """A number in [0, 1) that depends on its three arguments and on nothing else.

    Philox (Salmon et al. 2011) is counter-based: seed is the key, (choice, step) the counter, so a row draws
    the same numbers alone or in any batch, whatever was drawn before.
    """
    bits = np.random.Philox(key=seed % 2**64, counter=[step, choice, 0, 0])
    return float(int(bits.random_raw()) >> 11) * 2.0**-53


def penalise(logits: Array, ids: Sequence[int], *, presence: float, frequency: float) -> None:
    """Take from ``logits[vocab]``, in place, ``presence`` once and ``frequency`` times its count for each of
    the tokens generated so far (OpenAI's definition; the prompt does not count).
    """
    if ids:
        used, counts = np.unique(np.asarray(ids, np.int64), return_counts=True)
        logits[used] -= presence + frequency * counts


def sample(
    logits: Array, *, temperature: float, top_k: int = 0, top_p: float = 1.0, uniform: float
) -> tuple[int, float]:
    """Draw one id from ``logits[vocab]``; see :func:`choose`.

    Returns:
        The id and its log-probability under the model itself: temperature 1, nothing cut.
    """
    id = choose(logits, temperature=temperature, top_k=top_k, top_p=top_p, uniform=uniform)
    return id, float(logits[id]) - float(log_sum_exp(logits)[0])


def choose(logits: Array, *, temperature: float, top_k: int = 0, top_p: float = 1.0, uniform: float) -> int:
    """The id found by inverting the cumulative distribution at ``uniform``.

    Candidates are the ``top_k`` likeliest (0 = all; ties go to the smaller id), then the fewest of them that
    together reach ``top_p`` of the mass at this temperature (nucleus sampling, Holtzman et al. 2020).
    Temperature 0 takes the likeliest, and so does one below 1e-6, where quotients overflow. A logit of minus
    infinity is never drawn.
    """
    if temperature < _COLD:
        return int(logits.argmax())
    candidates = np.flatnonzero(logits > -np.inf)
    if 0 < top_k < len(candidates):
        floor = np.partition(logits, -top_k)[-top_k]
        candidates = np.flatnonzero(logits >= floor)
        candidates = candidates[np.argsort(-logits[candidates], kind="stable")[:top_k]]
    scaled = logits[candidates].astype(np.float64) / temperature
    mass = np.exp(scaled - scaled.max())
    if top_p < 1.0:
        # The tokens below this share weigh less than 1 - top_p together: the nucleus has none of them, and
        # sorting thousands of them would cost more than everything else here.
        likely = mass >= (1.0 - top_p) / len(mass) * mass.sum()
        order = np.flatnonzero(likely)[np.argsort(-mass[likely], kind="stable")]
        reached = np.cumsum(mass[order])
        order = order[: int(np.searchsorted(reached, top_p * mass.sum(), side="left")) + 1]
        candidates, mass = candidates[order], mass[order]
    cumulative = np.cumsum(mass)
    place = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return int(candidates[min(place, len(candidates) - 1)])
