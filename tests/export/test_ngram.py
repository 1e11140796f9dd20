"""The n-gram baseline: a distribution, and equal to the definition written out on tiny data."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from export.ngram import KneserNey

PAD, BOS, EOS = 0, 1, 2

Gram = tuple[int, ...]


def lines_of(seed: int, *, size: int, count: int, longest: int) -> list[list[int]]:
    """Lines of a skewed distribution, so that n-grams come once, twice and often."""
    draw = random.Random(seed)
    ids = range(3, size)
    weights = [1.0 / (id - 2) for id in ids]
    return [[BOS, *draw.choices(ids, weights, k=draw.randrange(longest)), EOS] for _ in range(count)]


def model_of(lines: list[list[int]], order: int, size: int) -> KneserNey:
    stream = np.concatenate([np.array(line, np.int32) for line in lines])
    return KneserNey(stream, order=order, size=size, bos=BOS, never=(PAD,))


class Direct:
    """Modified Kneser-Ney as the formulas say it, with dictionaries."""

    def __init__(self, lines: list[list[int]], order: int, size: int) -> None:
        self.order, self.targets = order, size - 2
        plain = {n: Counter[Gram]() for n in range(1, order + 1)}
        for line in lines:
            for n in plain:
                for end in range(n, len(line) + 1):
                    plain[n][tuple(line[end - n : end])] += 1
        self.counts: dict[int, dict[Gram, int]] = {order: dict(plain[order])}
        for n in range(1, order):
            before = defaultdict(set)
            for gram in plain[n + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[n] = {
                gram: plain[n][gram] if gram[0] == BOS else len(before[gram]) for gram in plain[n]
            }
        for counts in self.counts.values():
            counts.pop((BOS,), None)
        self.discounts = {n: self.discount(Counter(counts.values())) for n, counts in self.counts.items()}

    @staticmethod
    def discount(n: Counter[int]) -> tuple[float, float, float]:
        if all(n[k] for k in (1, 2, 3, 4)):
            y = n[1] / (n[1] + 2 * n[2])
            one, two, three = (k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
            if 0 < one < 1 and 0 < two < 2 and 0 < three < 3:
                return one, two, three
        return 0.5, 1.0, 1.5

    def probability(self, context: Gram, id: int) -> float:
        n = len(context) + 1
        shorter = self.probability(context[1:], id) if context else 1 / self.targets
        following = {gram[-1]: count for gram, count in self.counts[n].items() if gram[:-1] == context}
        if not following:
            return shorter
        total = sum(following.values())
        discount = self.discounts[n]
        taken = sum(discount[min(count, 3) - 1] for count in following.values())
        count = following.get(id, 0)
        left = count - discount[min(count, 3) - 1] if count else 0.0
        return left / total + taken / total * shorter


@pytest.mark.parametrize(
    ("order", "size", "count"),
    [(1, 8, 40), (2, 8, 40), (3, 8, 60), (5, 12, 80), (3, 6, 1), (4, 12, 400), (5, 10_000, 60)],
)
def test_it_is_the_definition(order: int, size: int, count: int) -> None:
    lines = lines_of(order, size=min(size, 12), count=count, longest=9)
    if size > 12:  # ids far apart, so that five of them are more than 64 bits
        lines = [[id if id < 3 else size - id for id in line] for line in lines]
    model, direct = model_of(lines, order, size), Direct(lines, order, size)
    test = lines_of(99, size=min(size, 12), count=30, longest=9)
    if size > 12:
        test = [[id if id < 3 else size - id for id in line] for line in test]
    for line, found in zip(test, model.log_probabilities(test), strict=True):
        wanted = [
            math.log(direct.probability(tuple(line[max(0, at - order + 1) : at]), line[at]))
            for at in range(1, len(line))
        ]
        assert found == pytest.approx(wanted, rel=1e-5)


def test_every_context_has_a_distribution() -> None:
    size = 40
    model = model_of(lines_of(3, size=size, count=300, longest=20), 5, size)
    draw = random.Random(5)
    targets = [id for id in range(size) if id not in (PAD, BOS)]
    for length in range(8):
        context = [BOS, *(draw.randrange(3, size) for _ in range(length))]
        found = model.log_probabilities([[*context, id] for id in targets])
        assert sum(math.exp(one[-1]) for one in found) == pytest.approx(1.0, abs=1e-5)


def test_discounts_are_estimated_where_they_can_be() -> None:
    direct = Direct(lines_of(4, size=12, count=400, longest=9), 4, 12)
    assert direct.discounts[4] != (0.5, 1.0, 1.5)
    assert direct.discounts[1] == (0.5, 1.0, 1.5)


def test_more_context_explains_a_text_with_a_pattern_better() -> None:
    lines = [[BOS, *([3, 4, 3, 5] * 10), EOS] for _ in range(20)]
    nats = [-model_of(lines, order, 6).log_probabilities(lines[:1])[0].sum() for order in (1, 2, 3)]
    assert nats[0] > nats[1] > nats[2]


@pytest.mark.parametrize(
    ("stream", "order", "size", "reason"),
    [
        ([3, 4], 2, 8, "begin with <bos>"),
        ([], 2, 8, "begin with <bos>"),
        ([BOS], 2, 8, "something to count"),
        ([BOS, 3], 0, 8, "from 1 to"),
        ([BOS, 3], 6, 10_000, "from 1 to 5 for 10000 ids"),
    ],
)
def test_what_cannot_be_counted_is_told(stream: list[int], order: int, size: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        KneserNey(np.array(stream, np.int32), order=order, size=size, bos=BOS)
