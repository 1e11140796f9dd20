"""The threads that drive the decoders, with a decoder that can be told to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import pytest

from service.backlog import Size
from service.batcher import Batcher
from service.errors import Problem
from service.health import LIVE_GRACE, Health
from service.lane import Lane
from service.registry import Registry
from service.tally import Counted
from service.ticket import Ticket
from tests.service.scripted import Job, Script, until, value


def run(test: Callable[[Script, Batcher], Awaitable[None]], threads: int = 2) -> None:
    async def main() -> None:
        script = Script()
        batcher = Batcher({"m": script.make, "other": script.make}, threads=threads, metrics=script.metrics)
        batcher.start(asyncio.get_running_loop())
        try:
            await test(script, batcher)
        finally:
            script.gate.set()
            batcher.stop()

    asyncio.run(main())


def ticket(job: Job, seconds: float = 5.0, **options: Any) -> Ticket:
    return Ticket("complete", "m", job, str.encode, deadline=monotonic() + seconds, **options)


def test_a_ticket_comes_back_with_its_result() -> None:
    async def test(script: Script, batcher: Batcher) -> None:
        one = ticket(Job())
        batcher.submit(one)
        assert await one.result == b"result"
        assert one.answered
        assert one.ran > 0
        assert one.tokens_out == 3
        assert value(script, "voisin_queue_depth", task="complete") == 0
        assert value(script, "voisin_batch_size_count", task="complete") == 3

    run(test)


def test_what_waits_travels_together() -> None:
    async def test(script: Script, batcher: Batcher) -> None:
        script.gate.clear()
        first = ticket(Job())
        batcher.submit(first)
        await until(lambda: first.started is not None)
        others = [ticket(Job()) for _ in range(4)]
        for each in others:
            batcher.submit(each)
        assert value(script, "voisin_queue_depth", task="complete") == 4
        script.gate.set()
        await asyncio.gather(*(each.result for each in (first, *others)))
        assert script.batches == [1, 5, 5, 4]

    run(test)


def test_pieces_come_before_the_end_and_in_order() -> None:
    async def test(script: Script, batcher: Batcher) -> None:
        pieces: list[Any] = []
        one = ticket(Job(), pieces=pieces.extend)
        batcher.submit(one)
        await one.result
        assert pieces == ["0:1", "0:2", "0:3", "0:4"]

    run(test)


@pytest.mark.parametrize("end", ["done", "failed", "late"])
def test_pieces_are_held_back_and_come_before_the_end_whatever_it_is(end: str) -> None:
    async def main() -> None:
        script = Script()
        lane = Lane("m", script.make)
        one = ticket(Job(length=4), pieces=lambda _: None)
        [first] = lane.turn([one], Counted(script.metrics))
        assert first.pieces == ["0:1"]
        for _ in range(2):
            assert lane.turn([], Counted(script.metrics)) == []
        if end == "failed":
            script.failure = RuntimeError("a bad step")
        if end == "late":
            one.deadline = 0.0
        [last] = lane.turn([], Counted(script.metrics))
        assert last.pieces == (["0:2", "0:3", "0:4", "0:5"] if end == "done" else ["0:2", "0:3"])
        assert (last.end == "result") if end == "done" else isinstance(last.end, Problem)

    asyncio.run(main())


def test_a_slow_lane_hands_out_each_piece() -> None:
    """Where the next step ends later than pieces may wait, nothing is held."""

    async def main() -> None:
        script = Script()
        lane = Lane("m", script.make)
        one = ticket(Job(length=4), pieces=lambda _: None)
        lane.turn([one], Counted(script.metrics))
        for number in (2, 3):
            assert lane.forward_at is not None
            lane.forward_at -= 1.0
            [each] = lane.turn([], Counted(script.metrics))
            assert each.pieces == [f"0:{number}"]

    asyncio.run(main())


def test_who_leaves_frees_the_rows_within_a_step() -> None:
    async def test(script: Script, batcher: Batcher) -> None:
        one, stays = ticket(Job(rows=3, length=10_000_000)), ticket(Job(length=200))
        [one.permit] = script.admission.admit("complete", [Size(5, 3)])
        batcher.submit(one)
        batcher.submit(stays)
        await until(lambda: one.first is not None)
        script.gate.clear()
        one.leave()
        await asyncio.sleep(0.02)
        before = len(script.batches)
        script.gate.set()
        with pytest.raises(Problem):
            await one.result
        await stays.result
        assert script.batches[before + 1 :] == [1] * len(script.batches[before + 1 :])
        assert len(script.cancelled) == 3
        assert script.admission.jobs == 0
        assert value(script, "voisin_cancelled_total", task="complete", stage="running") == 1

    run(test, threads=1)


def test_who_left_the_queue_is_never_begun() -> None:
    async def test(script: Script, batcher: Batcher) -> None:
        script.gate.clear()
        first, second = ticket(Job()), ticket(Job())
        batcher.submit(first)
        await until(lambda: first.started is not None)
        batcher.submit(second)
        second.leave()
        script.gate.set()
        await first.result
        with pytest.raises(Problem):
            await second.result
        assert max(script.batches) == 1
        assert value(script, "voisin_cancelled_total", task="complete", stage="queued") == 1

    run(test)


@pytest.mark.parametrize("begun", [False, True])
def test_the_deadline_is_kept_in_the_queue_and_between_steps(begun: bool) -> None:
    async def test(script: Script, batcher: Batcher) -> None:
        one = ticket(Job(length=10_000_000), seconds=0.1 if begun else -1.0)
        batcher.submit(one)
        with pytest.raises(Problem) as late:
            await one.result
        assert late.value.status == 504
        assert bool(script.batches) == begun
        assert value(script, "voisin_rejected_total", task="complete", reason="deadline") == 1

    run(test)


def test_one_bad_request_is_its_own_fault() -> None:
    async def test(script: Script, batcher: Batcher) -> None:
        bad, good = ticket(Job(length=13)), ticket(Job())
        batcher.submit(bad)
        batcher.submit(good)
        with pytest.raises(Problem) as refused:
            await bad.result
        assert refused.value.status == 500
        assert await good.result == b"result"

    run(test)


def test_a_failed_step_is_503_for_its_rows_and_the_model_comes_back() -> None:
    async def test(script: Script, batcher: Batcher) -> None:
        health = Health(Registry([], []), batcher, script.admission, canary_seconds=60)
        script.failure = RuntimeError("CUDA error")
        lost = ticket(Job())
        batcher.submit(lost)
        with pytest.raises(Problem) as refused:
            await lost.result
        assert refused.value.status == 503
        assert "retry-after" in refused.value.headers
        assert ("model_failed", "m") in [(each.code, each.model) for each in health.reasons()]
        assert health.is_live()
        script.failure = None
        again = ticket(Job())
        batcher.submit(again)
        assert await again.result == b"result"
        assert ("model_failed", "m") not in [(each.code, each.model) for each in health.reasons()]

    run(test)


def test_a_dead_thread_is_not_ready_then_not_live() -> None:
    async def test(script: Script, batcher: Batcher) -> None:
        now = [monotonic()]
        health = Health(Registry([], []), batcher, script.admission, canary_seconds=60, clock=lambda: now[0])
        script.failure = SystemExit()
        lost = ticket(Job())
        batcher.submit(lost)
        with pytest.raises(Problem) as refused:
            await lost.result
        assert refused.value.status == 503
        assert "worker_dead" in [each.code for each in health.reasons()]
        assert health.is_live()
        now[0] += LIVE_GRACE + 1
        assert not health.is_live()
        with pytest.raises(Problem) as refused:
            batcher.submit(ticket(Job()))
        assert refused.value.status == 503

    run(test)


def test_a_step_that_does_not_end_is_seen() -> None:
    async def test(script: Script, batcher: Batcher) -> None:
        now = [monotonic()]
        health = Health(Registry([], []), batcher, script.admission, canary_seconds=1, clock=lambda: now[0])
        script.gate.clear()
        stuck = ticket(Job())
        batcher.submit(stuck)
        await until(lambda: stuck.started is not None)
        now[0] += 3
        assert ("model_stuck", "m") in [(each.code, each.model) for each in health.reasons()]
        assert health.is_live()
        now[0] += LIVE_GRACE + 5
        assert not health.is_live()
        script.gate.set()
        await stuck.result

    run(test)
