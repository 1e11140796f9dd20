"""Graphs for the kernels; where there are none, why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bundle.native import library
from bundle.native.library import NEEDED, kernels
from export.lower import lower
from export.pack import write_graphs
from tests.bundle.native.small import SHAPES, VOCAB
from tests.conftest import missing
from training.models import build
from training.models.config import ModelConfig


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    if not library._flags() >= NEEDED:
        pytest.skip(f"this processor lacks {', '.join(sorted(NEEDED - library._flags()))}")
    if kernels() is None:
        missing("the compiled kernels (a C compiler, then pip install -e .)")


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fast int8 graphs of a small model whose weights are as large as those of trained ones."""
    wishes = dict(SHAPES[request.param])
    kind = wishes.pop("kind")
    torch.manual_seed(7)
    config = ModelConfig(
        architecture="transformer",
        encoder_layers=2 if kind == "translator" else 0,
        decoder_layers=2,
        hidden=64,
        max_positions=48,
        **wishes,
    )
    found: Path = tmp_path_factory.mktemp("native")
    write_graphs(found, lower(build(kind, config, VOCAB).eval(), "int8", "fast"))
    return found
