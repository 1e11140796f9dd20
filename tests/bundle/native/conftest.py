"""Graphs for the kernels; where there are none, why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bundle.native import library
from bundle.native.library import NEEDED, kernels
from tests.bundle.native.small import SHAPES, written
from tests.conftest import missing

if "KERNELS_UNDER_TEST" in os.environ:  # of test_sanitized.py, before anybody has asked for them
    library.compiled = lambda: os.environ["KERNELS_UNDER_TEST"]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    if not library._flags() >= NEEDED:
        pytest.skip(f"this processor lacks {', '.join(sorted(NEEDED - library._flags()))}")
    if kernels() is None:
        missing("the compiled kernels (a C compiler, then pip install -e .)")


@pytest.fixture(scope="module", params=[name for name in SHAPES if name != "lstm"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fast int8 graphs of a small Transformer."""
    return written(request.param, tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def lstm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fast int8 graph of an LSTM of two layers."""
    return written("lstm", tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module", params=["language", "translator", "lstm"])
def any_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind."""
    return written(request.param, tmp_path_factory.mktemp("native"))
