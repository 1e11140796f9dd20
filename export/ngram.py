"""Interpolated modified Kneser-Ney, the n-gram model that any other language model has to beat.

Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", section 3 of the
report. An n-gram is one sorted uint64: its ids, `bits` each, the first id highest. So all that shares a
context lies together, counting is sorting, and nothing but whole arrays is ever touched. As in KenLM
(Heafield et al. 2013) an n-gram that begins a line keeps its plain count in the lower orders, where others
count the distinct ids before them: nothing can stand before the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Ids = NDArray[np.int32]
Floats = NDArray[np.float32]

_WORD = 64
_BUCKET_BITS = 8
_FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where too few n-grams were seen to estimate them (KenLM's `--discount_fallback`)."""


@dataclass(frozen=True)
class _Grams:
    """Distinct n-grams of one length with a number each, sorted.

    What does not fit 64 bits of an n-gram is the number of its bucket; bucket b is `starts[b]:starts[b + 1]`.
    """

    keys: Keys
    starts: NDArray[np.int64]

    def find(self, keys: Keys, buckets: Ids) -> NDArray[np.int64]:
        """Places of the queries; -1 where there is none."""
        places = np.full(len(keys), -1, np.int64)
        for bucket in np.flatnonzero(np.bincount(buckets, minlength=1)):
            asked = np.flatnonzero(buckets == bucket)
            start, end = self.starts[bucket], self.starts[bucket + 1]
            part = self.keys[start:end]
            at = np.searchsorted(part, keys[asked])
            hit = at < len(part)
            hit[hit] = part[at[hit]] == keys[asked][hit]
            places[asked[hit]] = at[hit] + start
        return places


@dataclass(frozen=True)
class _Order:
    """One length: `alpha`, what is left of an n-gram after the discount, over its context's total; `gamma`,
    the weight that each context gives to the next shorter one."""

    grams: _Grams
    alpha: Floats
    contexts: _Grams
    gamma: Floats


class KneserNey:
    """Probabilities of ids after ids. 60 million of them at order 5 took 5 GB and two minutes of one core.

    Args:
        stream: `bos ids eos bos ids eos ...` as int32[tokens]; every line begins with `bos`.
        order: length of the longest n-gram.
        size: number of ids.
        bos: stands before a line, and is never predicted.
        never: other ids that are never predicted (padding).

    Raises:
        ValueError: the stream does not begin with `bos`, has nothing to count, or the order is too high
            for so many ids.
    """

    def __init__(self, stream: Ids, *, order: int, size: int, bos: int, never: Sequence[int] = ()) -> None:
        self.order = order
        self.targets = size - len({bos, *never})
        self.tokens = int((stream != bos).sum()) if len(stream) else 0
        self._bos = bos
        self._bits = max(1, (size - 1).bit_length())
        if not 1 <= order <= self.highest(size):
            raise ValueError(f"the order must be from 1 to {self.highest(size)} for {size} ids, not {order}")
        if not self.tokens or stream[0] != bos:
            raise ValueError("the stream must begin with <bos> and hold something to count")
        self._orders: list[_Order] = []
        self._fit(stream)

    @staticmethod
    def highest(size: int) -> int:
        """The highest order that this many ids allow."""
        bits = max(1, (size - 1).bit_length())
        return min((_WORD + _BUCKET_BITS) // bits, _WORD // bits + 1)

    def _fit(self, stream: Ids) -> None:
        depth = _depths(stream, self._bos)
        keys, starts, counts = self._counted(stream, np.flatnonzero(depth >= self.order - 1), self.order)
        orders = []
        for length in range(self.order, 0, -1):
            orders.append(self._smoothed(length, _Grams(keys, starts), counts))
            if length > 1:
                keys, counts = self._shortened(stream, depth, length - 1, keys)
                starts = np.array([0, len(keys)])
        self._orders = orders[::-1]

    def _packed(self, stream: Ids, ends: NDArray[np.int64], length: int) -> tuple[Keys, Ids]:
        """Keys and buckets of the n-grams that end at `ends`; what is beyond 64 bits falls off the key."""
        keys = np.zeros(len(ends), np.uint64)
        shift = np.uint64(self._bits)
        for back in range(length - 1, -1, -1):
            keys <<= shift
            keys |= stream[ends - back].astype(np.uint64)
        spare = length * self._bits - _WORD
        if spare <= 0:
            return keys, np.zeros(len(ends), np.int32)
        return keys, (stream[ends - (length - 1)] >> (self._bits - spare)).astype(np.int32)

    def _counted(
        self, stream: Ids, ends: NDArray[np.int64], length: int
    ) -> tuple[Keys, NDArray[np.int64], Ids]:
        """The distinct n-grams at `ends`, bucket by bucket, and how often each occurs."""
        # a unigram <bos> is no event
        ends = ends[stream[ends] != self._bos]
        keys, buckets = self._packed(stream, ends, length)
        spare = length * self._bits - _WORD
        if spare <= 0:
            keys, counts = _runs(keys)
            return keys, np.array([0, len(keys)]), counts
        parts = [_runs(keys[buckets == bucket]) for bucket in range(1 << spare)]
        starts = np.cumsum([0, *(len(part) for part, _ in parts)])
        return (
            np.concatenate([part for part, _ in parts]),
            starts.astype(np.int64),
            np.concatenate([counts for _, counts in parts]),
        )

    def _shortened(self, stream: Ids, depth: Ids, length: int, longer: Keys) -> tuple[Keys, Ids]:
        """The n-grams one shorter: how many ids stand before each, or how often it begins a line."""
        mask = np.uint64((1 << (length * self._bits)) - 1)
        keys, counts = _runs(longer & mask)
        first, _, plain = self._counted(stream, np.flatnonzero(depth == length - 1), length)
        # nothing else begins with <bos>: its n-grams are one block among the others
        at = int(np.searchsorted(keys, np.uint64(self._bos << ((length - 1) * self._bits))))
        return (
            np.concatenate([keys[:at], first, keys[at:]]),
            np.concatenate([counts[:at], plain, counts[at:]]),
        )

    def _smoothed(self, length: int, grams: _Grams, counts: Ids) -> _Order:
        one, two, three = _discounts(counts)
        prefixes = grams.keys >> np.uint64(self._bits)
        spare = length * self._bits - _WORD
        if spare > 0:
            for bucket in range(len(grams.starts) - 1):
                part = slice(grams.starts[bucket], grams.starts[bucket + 1])
                prefixes[part] |= np.uint64(bucket << (_WORD - self._bits))
        begins = np.flatnonzero(_first_of_runs(prefixes))
        sizes = np.diff(np.append(begins, len(prefixes)))
        totals = np.add.reduceat(counts.astype(np.float64), begins) if len(begins) else np.zeros(0)
        discount = np.choose(np.minimum(counts, 3) - 1, [one, two, three]).astype(np.float32)
        taken = np.add.reduceat(discount.astype(np.float64), begins) if len(begins) else np.zeros(0)
        alpha = ((counts - discount) / np.repeat(totals, sizes)).astype(np.float32)
        contexts = _Grams(prefixes[begins], np.array([0, len(begins)]))
        return _Order(grams, alpha, contexts, (taken / totals).astype(np.float32))

    def log_probabilities(self, lines: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        """Natural logarithms of the probability of every id after the first of each line.

        Args:
            lines: each begins with `bos`, and what follows is predicted.
        """
        if not lines:
            return []
        stream = np.concatenate([np.asarray(line, np.int32) for line in lines])
        depth = _lengths_to_depths([len(line) for line in lines])
        probability = np.full(len(stream), 1.0 / self.targets)
        for length, order in enumerate(self._orders, start=1):
            ends = np.flatnonzero((depth >= length - 1) & (depth > 0))
            keys, buckets = self._packed(stream, ends, length)
            found = order.grams.find(keys, buckets)
            alpha = np.where(found >= 0, order.alpha[found], 0.0) if len(order.alpha) else np.zeros(len(ends))
            before = ends - 1
            context, _ = self._packed(stream, before, length - 1)
            seen = order.contexts.find(context, np.zeros(len(ends), np.int32))
            # a context never seen leaves everything to the shorter one
            gamma = np.where(seen >= 0, order.gamma[seen], 1.0) if len(order.gamma) else np.ones(len(ends))
            probability[ends] = alpha + gamma * probability[ends]
        cuts = np.cumsum([len(line) for line in lines])[:-1]
        return [np.log(part[1:]) for part in np.split(probability, cuts)]


def _runs(keys: Keys) -> tuple[Keys, Ids]:
    """Distinct keys, sorted, and how often each occurs. `keys` is sorted in place."""
    keys.sort()
    begins = np.flatnonzero(_first_of_runs(keys))
    counts = np.diff(np.append(begins, len(keys))).astype(np.int32)
    return keys[begins], counts


def _first_of_runs(keys: Keys) -> NDArray[np.bool_]:
    first = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return first


def _depths(stream: Ids, bos: int) -> Ids:
    """How many ids of its line stand before each id."""
    begins = np.flatnonzero(stream == bos)
    return _lengths_to_depths(np.diff(np.append(begins, len(stream))))


def _lengths_to_depths(lengths: Sequence[int] | NDArray[np.int64]) -> Ids:
    sizes = np.asarray(lengths, np.int64)
    total = int(sizes.sum())
    starts = np.repeat((np.cumsum(sizes) - sizes).astype(np.int32), sizes)
    return np.arange(total, dtype=np.int32) - starts


def _discounts(counts: Ids) -> tuple[float, float, float]:
    """What is taken from n-grams counted once, twice and more often (equation 26 of the report)."""
    n1, n2, n3, n4 = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    if not (n1 and n2 and n3 and n4):
        return _FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    if any(not 0 < discount < count for count, discount in enumerate(found, start=1)):
        return _FALLBACK
    return found
