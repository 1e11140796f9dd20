"""Faults are done to real processes: what is shared is how to start, watch and disturb them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.service.conftest import RedisServer, models

__all__ = ["models", "redis_server"]


@pytest.fixture
def redis_server(program: Callable[[str], str], tmp_path: Path) -> Iterator[RedisServer]:
    """A running Redis of this test's own."""
    server = RedisServer(program("redis-server"), tmp_path)
    server.start()
    yield server
    server.kill()
