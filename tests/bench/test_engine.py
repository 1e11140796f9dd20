"""Another engine, written by others, gives the same tokens for the same weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from bench import engine
from bench.engine import Ours, Shape, Theirs, transformer
from training.models import build


@pytest.mark.parametrize(("kind", "beam"), [("translator", 1), ("translator", 4), ("language", 1)])
@pytest.mark.parametrize("form", ["plain", "fast"])
def test_ctranslate2_gives_the_same_tokens(tmp_path: Path, kind: str, form: str, beam: int) -> None:
    torch.manual_seed(1)
    config = transformer(2 if kind == "translator" else 0, 2, 64, 4)
    shape = Shape("small", kind, config, 500, 12, 20, ())
    model = build(kind, config, shape.vocab).eval()  # type: ignore[arg-type]
    prompts = engine._prompts(shape)[:6]
    theirs = Theirs(model, shape, tmp_path, "float32")  # type: ignore[arg-type]
    ours = Ours(model, shape, tmp_path, "fp32", form)  # type: ignore[arg-type]
    assert ours.decode(prompts, beam) == theirs.decode(prompts, beam)


def test_a_row_for_every_side_and_question() -> None:
    small = dataclasses.replace(
        engine.SHAPES[0], config=transformer(1, 1, 64, 4), vocab=400, asked=((1, 1), (2, 4))
    )
    found = engine.measure(Path(), rounds=1, shapes=[small])
    assert len({row.question for row in found}) == 2
    ours = {"voisin kernels int8", "voisin fast int8", "voisin plain int8"}
    assert {row.side for row in found} == {engine.PEER, *ours}
    assert all(row.median > 0 for row in found)
