"""The one bounded place."""

from __future__ import annotations

import asyncio

import pytest

from service.admission import Admission
from service.errors import Problem
from service.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def new(tokens: int = 100, texts: int = 10) -> tuple[Admission, Clock, Metrics]:
    clock, metrics = Clock(), Metrics()
    return Admission(tokens=tokens, texts=texts, metrics=metrics, clock=clock), clock, metrics


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    value = metrics.registry.get_sample_value(name, labels)
    assert value is not None
    return value


def test_room_is_counted_in_tokens_and_texts() -> None:
    admission, _, metrics = new()
    [first] = admission.admit("translate", [(60, 1)])
    with pytest.raises(Problem) as refused:
        admission.admit("translate", [(41, 1)])
    assert refused.value.status == 429
    assert "VOISIN_QUEUE_TOKENS" in refused.value.detail
    [second] = admission.admit("translate", [(40, 9)])
    with pytest.raises(Problem):
        admission.admit("translate", [(0, 1)])
    first.release()
    first.release()
    assert (admission.tokens, admission.texts, admission.jobs) == (40, 9, 1)
    second.release()
    assert (admission.tokens, admission.texts, admission.jobs) == (0, 0, 0)
    assert sample(metrics, "voisin_rejected_total", task="translate", reason="queue_full") == 2


def test_a_batch_is_let_in_whole_or_not_at_all() -> None:
    admission, _, _ = new()
    admission.admit("translate", [(10, 1)])
    with pytest.raises(Problem):
        admission.admit("translate", [(50, 1), (50, 1)])
    assert (admission.tokens, admission.jobs) == (10, 1)


def test_what_is_larger_than_the_queue_goes_in_alone() -> None:
    admission, _, _ = new()
    [permit] = admission.admit("complete", [(1000, 1)])
    with pytest.raises(Problem):
        admission.admit("complete", [(1, 1)])
    permit.release()
    admission.admit("complete", [(1, 1)])


def test_retry_after_follows_the_drain_rate() -> None:
    admission, clock, _ = new(tokens=100)
    permits = [admission.admit("complete", [(20, 1)])[0] for _ in range(5)]
    clock.now += 2
    permits[0].release()  # 20 tokens in 2 s: 10 a second
    assert admission.retry_after(20) == 1
    assert admission.retry_after(70) == 5
    assert admission.retry_after(10_000) == 60
    clock.now += 100  # nothing drained lately: no rate to go by
    assert admission.retry_after(70) == 1


def test_who_leaves_takes_nobody_in() -> None:
    admission, _, metrics = new()
    admission.draining = True
    with pytest.raises(Problem) as refused:
        admission.admit("complete", [(1, 1)])
    assert refused.value.status == 503
    assert refused.value.headers == {"retry-after": "1", "connection": "close"}
    assert sample(metrics, "voisin_rejected_total", task="complete", reason="draining") == 1


def test_waiting_for_the_last_one() -> None:
    async def main() -> None:
        admission, _, _ = new()
        await admission.wait_empty(5)
        [permit] = admission.admit("complete", [(1, 1)])
        waiting = asyncio.create_task(admission.wait_empty(5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        permit.release()
        await asyncio.wait_for(waiting, 1)
        admission.admit("complete", [(1, 1)])
        await admission.wait_empty(0.01)
        assert admission.jobs == 1

    asyncio.run(main())


def test_the_backlog_is_what_was_admitted() -> None:
    admission, _, metrics = new()
    admission.admit("complete", [(3, 1), (4, 1)])
    assert sample(metrics, "voisin_backlog_requests") == 2
    assert sample(metrics, "voisin_backlog_tokens") == 7
    assert sample(metrics, "voisin_queue_capacity_tokens") == 100
