"""How often a request was asked before, and what share of a traffic an LRU cache therefore answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def zipf(distinct: int, exponent: float) -> Floats:
    """Probability of each of `distinct` requests, the most popular first: proportional to rank^-exponent.

    Breslau et al. 1999 found exponents of 0.64 to 0.83 for requests of web pages; words of a text are near 1.
    """
    weights: Floats = np.arange(1, distinct + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def characteristic_time(probabilities: Floats, sizes: Floats, capacity: float) -> float:
    """How long, counted in requests, an entry stays in an LRU cache after it was last asked for.

    The root t of sum(size * (1 - exp(-p t))) = capacity (Che, Tung and Wang 2002); infinite where everything
    fits.
    """
    if capacity <= 0:
        return 0.0
    if sizes.sum() <= capacity:
        return np.inf
    low, high = 0.0, 1.0
    while (sizes * -np.expm1(-probabilities * high)).sum() < capacity:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        if (sizes * -np.expm1(-probabilities * middle)).sum() < capacity:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def hit_ratio(probabilities: Floats, sizes: Floats, capacity: float) -> float:
    """Share of the requests that a warm LRU cache of `capacity` answers, by Che's approximation."""
    time = characteristic_time(probabilities, sizes, capacity)
    return float((probabilities * -np.expm1(-probabilities * time)).sum())


class Lru:
    """The least recently used leaves first, bounded by the sizes of what is kept."""

    def __init__(self, capacity: float) -> None:
        self._capacity = capacity
        self._sizes: OrderedDict[int, float] = OrderedDict()
        self.size = 0.0

    def __len__(self) -> int:
        return len(self._sizes)

    def has(self, key: int) -> bool:
        """Whether the key is there; it is then the most recently used."""
        if key not in self._sizes:
            return False
        self._sizes.move_to_end(key)
        return True

    def keep(self, key: int, size: float) -> None:
        """Put a key in."""
        self.size += size - self._sizes.pop(key, 0.0)
        self._sizes[key] = size
        while self.size > self._capacity:
            _, dropped = self._sizes.popitem(last=False)
            self.size -= dropped

    def warm(self, probabilities: Floats, sizes: Floats, rng: np.random.Generator) -> None:
        """Fill the cache as long traffic would leave it: by the ages that Che's approximation gives."""
        time = characteristic_time(probabilities, sizes, self._capacity)
        ages = rng.exponential(1.0 / probabilities)
        kept = np.flatnonzero(ages < time)
        for key in kept[np.argsort(-ages[kept])].tolist():
            self.keep(key, float(sizes[key]))


def lru_hits(keys: Iterable[int], sizes: Sequence[float] | Floats, capacity: float) -> int:
    """Hits of an exact LRU run over `keys`, from empty."""
    cache, hits = Lru(capacity), 0
    for key in keys:
        if cache.has(key):
            hits += 1
        else:
            cache.keep(key, float(sizes[key]))
    return hits
