"""Random numbers that can be repeated, and what they draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.sampling import choose, log_softmax, philox, sample


def test_log_softmax_is_that_of_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    logits = np.random.default_rng(0).normal(size=(5, 40)) * 30
    np.testing.assert_allclose(log_softmax(logits), special.log_softmax(logits, axis=-1), atol=1e-12)
    assert log_softmax(logits.astype(np.float32)).dtype == np.float32


def test_philox_is_fixed_for_ever() -> None:
    """These numbers are part of what a seed means; they must never change."""
    numbers = [philox(0, 0, 0), philox(1, 0, 0), philox(1, 1, 0), philox(1, 0, 1), philox(2**63 - 1, 3, 99)]
    assert numbers == pytest.approx(NUMBERS, abs=0)


NUMBERS = [
    0.011546754286331562,
    0.3035680343067586,
    0.35811448402596147,
    0.9002684531124185,
    0.21817754684826396,
]


def test_philox_is_uniform_along_each_argument() -> None:
    for numbers in (
        [philox(seed, 0, 0) for seed in range(2000)],
        [philox(0, choice, 0) for choice in range(2000)],
        [philox(0, 0, step) for step in range(2000)],
    ):
        counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
        assert counts.min() > 150
        assert counts.max() < 250


# Eighths: no two so near that a rounding could swap them.
LOGITS = st.lists(st.integers(-160, 160), min_size=1, max_size=30, unique=True).map(
    lambda eighths: np.array(eighths, np.float32) / 8
)


@given(
    LOGITS, st.floats(0.1, 3.0), st.integers(0, 35), st.floats(0.05, 1.0), st.floats(0, 1, exclude_max=True)
)
def test_a_draw_inverts_the_plain_distribution(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, uniform: float
) -> None:
    """The kept tokens are exactly those of the definition, whatever short cuts are taken."""
    order = np.argsort(-logits.astype(np.float64), kind="stable")
    probability = np.exp(logits.astype(np.float64) / temperature)
    kept = order[:top_k] if top_k else order
    share = probability[kept] / probability[kept].sum()
    before = np.cumsum(share) - share
    sure = set(kept[before < top_p - 1e-9].tolist())
    perhaps = set(kept[before < top_p + 1e-9].tolist())
    id = choose(logits, temperature=temperature, top_k=top_k, top_p=top_p, uniform=uniform)
    assert id in perhaps
    reached = {
        choose(logits, temperature=temperature, top_k=top_k, top_p=top_p, uniform=u)
        for u in np.linspace(0, 1, 400, endpoint=False)
    }
    assert reached <= perhaps
    big = {one for one in sure if probability[one] / probability[list(sure)].sum() > 0.01}
    assert big <= reached


def test_frequencies_are_the_probabilities() -> None:
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    drawn = [sample(logits, temperature=1.0, uniform=philox(1, 0, step))[0] for step in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [0.1, 0.2, 0.3, 0.4], atol=0.03)


def test_a_sample_tells_the_raw_log_probability() -> None:
    logits = np.array([0.0, 1.0, 2.0], np.float32)
    id, logprob = sample(logits, temperature=5.0, top_k=1, uniform=0.999)
    assert id == 2
    assert logprob == pytest.approx(float(log_softmax(logits)[2]))
    assert sample(logits, temperature=0.0, uniform=0.5)[0] == 2


def test_what_is_forbidden_is_never_drawn() -> None:
    logits = np.array([-np.inf, 1.0, -np.inf, 0.0], np.float32)
    drawn = {
        choose(logits, temperature=3.0, top_k=top_k, top_p=top_p, uniform=uniform)
        for uniform in np.linspace(0, 1, 50, endpoint=False)
        for top_k in (0, 1, 3)
        for top_p in (0.5, 1.0)
    }
    assert drawn == {1, 3}
    assert choose(np.zeros(4, np.float32), temperature=1.0, top_k=2, uniform=0.99) == 1  # ties: smaller ids
