"""Cycles are looked for when nobody waits, or when there are too many."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

import service.collector
from service.collector import collect, collect_in_peace


class Circle:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_an_idle_moment_is_taken_where_it_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.collector, "_SOME", 1000)
    monkeypatch.setattr(service.collector, "_MANY", 3000)
    circle = weakref.ref(Circle())
    kept: list[list[int]] = []
    collect(idle=True)
    assert circle() is not None  # hardly anything was made
    kept += [[] for _ in range(1100)]
    collect(idle=False)
    assert circle() is not None
    collect(idle=True)
    assert circle() is None
    circle = weakref.ref(Circle())
    kept += [[] for _ in range(3100)]
    collect(idle=False)
    assert circle() is None


def test_the_automatic_collector_rests_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.collector, "_EVERY", 0.01)
    monkeypatch.setattr(service.collector, "_SOME", 1000)
    busy = True

    async def main() -> None:
        nonlocal busy
        gc.enable()
        watch = asyncio.create_task(collect_in_peace(lambda: busy))
        await asyncio.sleep(0.05)
        assert not gc.isenabled()
        circle = weakref.ref(Circle())
        kept = [[] for _ in range(1100)]  # type: ignore[var-annotated]
        await asyncio.sleep(0.05)
        assert circle() is not None
        busy = False
        await asyncio.sleep(0.05)
        assert circle() is None
        assert kept
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        assert gc.isenabled()

    asyncio.run(main())
