"""The table of a vectors graph, read in place: the vector of a word, and how near all others are to a query.

Rows are unit vectors. An int8 row is whole numbers and one scale, so the cosine of two of them is a whole
number times two scales: exact, on every machine.
"""

from collections.abc import Sequence

import numpy as np
import simsimd
from numpy.typing import NDArray

from bundle.stored import Array, Stored

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

_TABLES = ("table", "table_fp16", "table_int8")
_LEAST = 1e-12  # of a query's length: words that cancel out give zero cosines instead of NaN
_LARGEST = 127
_ROUNDING = 2.0**-23  # of a float32
_BLOCK = 1 << 22  # numbers that are widened at once


class Query:
    """A unit vector to compare rows with. Immutable.

    Attributes:
        codes, scale: for int8 rows, whole numbers whose product with ``scale`` is the vector in 8 bits.
        error: length of what that leaves out; 0 for a word, which is in 8 bits already.
    """

    __slots__ = ("_unit", "codes", "error", "scale")

    def __init__(
        self,
        unit: Doubles | None = None,
        codes: NDArray[np.int8] | None = None,
        scale: float = 1.0,
        error: float = 0.0,
    ) -> None:
        self._unit = unit
        self.codes = codes
        self.scale = scale
        self.error = error

    @property
    def unit(self) -> Doubles:
        """The vector, ``float64[hidden]``."""
        if self._unit is None:
            assert self.codes is not None
            self._unit = self.codes.astype(np.float64) * self.scale
        return self._unit


class Rows:
    """Word vectors by id. Any number of threads may ask at once.

    Attributes:
        size, hidden: rows, and numbers in each.
        blank: ids of the rows that are no words, as far as the graph says so.

    Raises:
        ValueError: the graph holds no table that can be read in place.
    """

    def __init__(self, stored: Stored) -> None:
        weights = stored.weights
        found = [weights[name] for name in _TABLES if name in weights]
        if len(found) != 1 or found[0].ndim != 2:
            raise ValueError(
                f"the graph holds no table of vectors: none of its weights is {', '.join(_TABLES)}"
            )
        self._table = found[0]
        self._scales: Floats | None = None
        self.size: int = self._table.shape[0]
        self.hidden: int = self._table.shape[1]
        if self._table.dtype == np.int8:
            self._scales = self._column(weights, "scales")
        self.blank: Ids = np.empty(0, np.int64)
        if "places" in weights:
            places = self._column(weights, "places")
            self.blank = np.flatnonzero(places < 0)
        self._ngrams = (
            _Grams(weights, self.hidden) if any(n.startswith("ngram_table") for n in weights) else None
        )

    def _column(self, weights: dict[str, Array], name: str) -> Floats:
        column = weights.get(name)
        if column is None or column.dtype != np.float32 or column.size not in (1, self.size):
            raise ValueError(f"the graph's table has {self.size} rows, and no {name} to go with them")
        return np.ascontiguousarray(np.broadcast_to(column.reshape(-1), self.size), np.float32)

    def unit(self, ids: Ids | Sequence[int]) -> Floats:
        """Vectors ``float32[len(ids), hidden]``, as the graph widens them."""
        rows: Floats = self._table[ids].astype(np.float32)
        return rows if self._scales is None else rows * self._scales[ids][:, None]

    def composed(self, grams: Sequence[int]) -> Doubles:
        """The unit vector of a word never seen, from its rows of the n-gram table.

        Raises:
            ValueError: the graph has no n-grams.
        """
        if self._ngrams is None:
            raise ValueError("the graph has no n-grams")
        return _unit(self._ngrams.rows(grams).sum(0, dtype=np.float64))

    def word(self, id: int) -> Query:
        """One word as a query."""
        if self._scales is None:
            return Query(_unit(self.unit([id])[0].astype(np.float64)))
        return Query(None, self._table[id], float(self._scales[id]))

    def vector(self, sum: Doubles) -> Query:
        """Any vector as a query, whatever its length."""
        unit = _unit(sum)
        if self._scales is None:
            return Query(unit)
        scale = float(np.abs(unit).max()) / _LARGEST or 1.0
        codes = np.rint(unit / scale).astype(np.int8)
        return Query(unit, codes, scale, float(np.linalg.norm(unit - codes * scale)))

    def cosines(self, query: Query, ids: Ids) -> Floats:
        """Cosines ``float32[len(ids)]`` of some rows, the same for a row whatever is asked with it."""
        if self._scales is not None and query.codes is not None and not query.error:
            return _products(query, self._table.take(ids, 0), self._scales.take(ids))
        found: Floats = (self.unit(ids) * query.unit).sum(1).astype(np.float32)
        return found

    def pairs(self, others: NDArray[np.integer]) -> Floats:
        """Cosines ``float32[rows, width]`` of the first rows with ``others[rows, width]``.

        Each is what :meth:`cosines` says of the two.
        """
        found = np.empty(others.shape, np.float32)
        width = others.shape[1]
        step = max(1, _BLOCK // (width * self.hidden))
        for start in range(0, len(others), step):
            some = others[start : start + step]
            own = np.arange(start, start + len(some))
            if self._scales is None:
                units = _unit(self.unit(own).astype(np.float64))
                near = self.unit(some.reshape(-1).astype(np.int64)).reshape(len(some), width, -1)
                found[start : start + step] = (near * units[:, None]).sum(2)
                continue
            dots = simsimd.dot(
                self._table.take(np.repeat(own, width), 0), self._table.take(some.reshape(-1), 0)
            )
            block = np.asarray(dots, np.float32).reshape(some.shape)
            block *= self._scales.take(some)
            block *= self._scales.take(own)[:, None]
            found[start : start + step] = block
        return found

    def scan(self, query: Query, limit: int) -> tuple[Floats, float]:
        """Cosines ``float32[limit]`` of the first rows, and how far off they may be."""
        table = self._table[:limit]
        if self._scales is not None and query.codes is not None:
            found = _products(query, table, self._scales[:limit])
            return found, query.error and query.error * (1 + self.hidden * _ROUNDING) + 8 * _ROUNDING
        narrow = query.unit.astype(np.float32)
        error = (self.hidden + 8) * _ROUNDING
        if table.dtype == np.float32:
            plain: Floats = table.view(np.float32) @ narrow
            return plain, error
        found = np.empty(limit, np.float32)
        step = max(1, _BLOCK // self.hidden)
        for start in range(0, limit, step):
            found[start : start + step] = self.unit(range(start, min(start + step, limit))) @ narrow
        return found, error

    def all_cosines(self, query: Query, limit: int) -> Floats:
        """Cosines ``float32[limit]`` of the first rows, right to the last digits of float32."""
        if not query.error:
            return self.scan(query, limit)[0]
        return self.scan(Query(query.unit), limit)[0]


def _products(query: Query, table: Array, scales: Floats) -> Floats:
    """Products of an int8 query with int8 rows. Sums of whole numbers have no order, so a row's product is
    the same whatever stands around it."""
    assert query.codes is not None
    if not len(table):
        return np.empty(0, np.float32)
    dots = simsimd.cdist(query.codes[None], table, metric="dot", out_dtype="float32")
    found: Floats = np.asarray(dots, np.float32).reshape(-1)
    found *= scales
    found *= np.float32(query.scale)
    return found


class _Grams:
    """Rows of the n-gram table, which words never seen are sums of."""

    def __init__(self, weights: dict[str, Array], hidden: int) -> None:
        [name] = [name for name in weights if name.startswith("ngram_table")]
        self._table = weights[name]
        self._scales = weights.get("ngram_scales")
        if self._table.ndim != 2 or self._table.shape[1] != hidden:
            raise ValueError(f"the graph's n-grams are of shape {self._table.shape}")
        if self._table.dtype == np.int8 and (self._scales is None or len(self._scales) != len(self._table)):
            raise ValueError("the graph's n-grams have no scales")

    def rows(self, ids: Sequence[int]) -> Floats:
        found: Floats = self._table[list(ids)].astype(np.float32)
        return found if self._scales is None else found * self._scales[list(ids)][:, None].astype(np.float32)


def _unit(vectors: Doubles) -> Doubles:
    """Vectors of length 1 along the last axis, the same alone and among others; zeros stay zeros."""
    lengths = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    found: Doubles = vectors / np.maximum(lengths, _LEAST)
    return found
