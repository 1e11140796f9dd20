"""What every test may ask for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def missing(part: str) -> None:
    """Skip because `part` is not on this machine; in CI (`VOISIN_REQUIRE_ALL=1`) fail instead."""
    if os.environ.get("VOISIN_REQUIRE_ALL") == "1":
        pytest.fail(f"{part} is missing and VOISIN_REQUIRE_ALL=1", pytrace=False)
    pytest.skip(f"{part} is missing on this machine")


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """`program("redis-server")` is its path; skips (or fails in CI) where it is not installed."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            missing(name)
        assert path is not None
        return path

    return find


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of the larger corpora, from `VOISIN_DATA`."""
    folder = os.environ.get("VOISIN_DATA")
    if not folder:
        missing("VOISIN_DATA (a folder with the larger corpora)")
    assert folder is not None
    return Path(folder)
