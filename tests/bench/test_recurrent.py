"""torch eager and the decoder core write the same tokens for the same weights."""

from __future__ import annotations

from pathlib import Path

from bench import recurrent
from bench.recurrent import Shape


def test_a_row_for_every_side_and_question() -> None:
    small = Shape("small", recurrent.lstm(2, 64), 90)
    found = recurrent.measure(Path(), rounds=1, shapes=[small])  # raises where tokens differ
    assert len({row.question for row in found}) == len(recurrent.ASKED)
    assert {row.side for row in found} == {
        recurrent.PEER,
        "torch eager, without oneDNN",
        "voisin plain int8",
        "voisin fast fp32",
        "voisin fast int8",
        "voisin kernels int8",
    }
    assert all(row.median > 0 for row in found)
