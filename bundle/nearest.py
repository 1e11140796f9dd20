"""The nearest rows of a query, exactly: a scan that is nearly right, then the truth about the rest."""

from collections.abc import Sequence

import numpy as np

from bundle.rows import Floats, Ids, Query, Rows

_GROUP = 64


def nearest(
    rows: Rows, query: Query, topn: int, *, skip: Ids | Sequence[int] = (), limit: int = 0
) -> tuple[Ids, Floats]:
    """Ids and cosines of at most ``topn`` rows, nearest first; of equal cosines the lower id first.

    The scan is off by no more than a bound it knows. Whatever is within twice that bound of the last place
    is measured again by :meth:`Rows.cosines`, so the answer is that of a full search, not a likely one.

    Args:
        skip: rows that are not wanted, besides those that are no words.
        limit: only the first rows are searched; 0 = all.
    """
    limit = min(limit, rows.size) or rows.size
    found, error = rows.scan(query, limit)
    for unwanted in (rows.blank, np.asarray(skip, np.int64)):
        found[unwanted[unwanted < limit]] = -np.inf
    ids = candidates(found, topn, error)
    return ranked(ids, rows.cosines(query, ids), topn)


def candidates(found: Floats, topn: int, error: float) -> Ids:
    """Every id that may be among the ``topn`` best, where each of ``found`` is right to within ``error``."""
    least = _least(found, topn)
    if least == -np.inf:
        return np.flatnonzero(found > -np.inf)
    return np.flatnonzero(found >= least - np.float32(2 * error))


def ranked(ids: Ids, cosines: Floats, topn: int) -> tuple[Ids, Floats]:
    """The best first; ties by id."""
    order = np.lexsort((ids, -cosines))[:topn]
    return ids[order], cosines[order]


def _least(found: Floats, topn: int) -> float:
    """A number that is at most the ``topn``-th largest, and seldom much less.

    The ``topn``-th largest of the maxima of groups is such a number, and far fewer have to be ordered.
    """
    groups = len(found) // _GROUP
    if groups >= 8 * topn:
        found = found[: groups * _GROUP].reshape(_GROUP, groups).max(0)  # many maxima at once
    if topn >= len(found):
        return float("-inf")
    return float(np.partition(found, len(found) - topn)[len(found) - topn])
