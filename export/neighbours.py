"""The nearest words of each word, found once: `neighbours.bin` of a `vectors` bundle.

The cosines of a block of words with all others are one matrix product; what may be among the nearest is then
measured as the service measures it, so that a look-up and a scan give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.nearest import candidates, ranked
from bundle.neighbours import NEIGHBOURS, encode_neighbours
from bundle.rows import Rows
from bundle.stored import read_stored
from bundle.tokenizer import Tokenizer
from export.vectors import GRAPH

WIDTH = 10
"""Neighbours of a word: what is asked for where nothing is said."""

OPERATIONS = 4e13
"""Multiplications and additions that a table may cost: some minutes of a core. A vocabulary that would cost
more has the neighbours of its most frequent words alone."""

_BLOCK_BYTES = 1 << 27

Ids = npt.NDArray[np.int64]


def write_neighbours(
    folder: Path, tokenizer: Tokenizer, *, width: int = WIDTH, operations: float = OPERATIONS
) -> None:
    """Writes the table of the staged bundle `folder`; none where there is nothing to look up."""
    rows = Rows(read_stored(folder / GRAPH))
    special = np.array(sorted(tokenizer.special_ids), np.int64)
    count = min(rows.size, int(operations / (2 * rows.size * rows.hidden)))
    width = min(width, rows.size - len(set(special.tolist()) | set(rows.blank.tolist())) - 1)
    if width >= 1 and count >= 1:
        ids = find_neighbours(rows, special, count=count, width=width)
        (folder / NEIGHBOURS).write_bytes(encode_neighbours(ids, rows.size))


def find_neighbours(rows: Rows, special: Ids, *, count: int, width: int) -> Ids:
    """Ids `[count, width]` of the nearest words of the first `count`, nearest first; ties by id.

    Special tokens, and rows that are no words, are nobody's neighbours and have none: their places hold the
    row's own id.
    """
    everything = rows.unit(range(rows.size))
    unwanted = np.union1d(special, rows.blank)
    wordless = set(unwanted.tolist())
    error = (rows.hidden + 16) * 2.0**-23  # of a product of unit vectors in float32, in any order
    found = np.repeat(np.arange(count)[:, None], width, 1)
    step = max(1, _BLOCK_BYTES // (4 * rows.size))
    for start in range(0, count, step):
        products = everything[start : start + step][: count - start] @ everything.T
        products[:, unwanted] = -np.inf
        for id, row in enumerate(products, start):
            if id not in wordless:
                row[id] = -np.inf
                some = candidates(row, width, error)
                near, _ = ranked(some, rows.cosines(rows.word(id), some), width)
                found[id, : len(near)] = near
    return found
