"""The one bounded place."""

from __future__ import annotations

import asyncio

import pytest

from service.admission import Admission
from service.backlog import Size
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
    [first] = admission.admit("translate", [Size(60, 1)])
    with pytest.raises(Problem) as refused:
        admission.admit("translate", [Size(41, 1)])
    assert refused.value.status == 429
    assert "VOISIN_QUEUE_TOKENS" in refused.value.detail
    [second] = admission.admit("translate", [Size(40, 9)])
    with pytest.raises(Problem):
        admission.admit("translate", [Size(0, 1)])
    first.release()
    first.release()
    assert (admission.tokens, admission.texts, admission.jobs) == (40, 9, 1)
    second.release()
    assert (admission.tokens, admission.texts, admission.jobs) == (0, 0, 0)
    assert sample(metrics, "voisin_rejected_total", task="translate", reason="queue_full") == 2


def test_a_batch_is_let_in_whole_or_not_at_all() -> None:
    admission, _, _ = new()
    admission.admit("translate", [Size(10, 1)])
    with pytest.raises(Problem):
        admission.admit("translate", [Size(50, 1), Size(50, 1)])
    assert (admission.tokens, admission.jobs) == (10, 1)


def test_what_is_larger_than_the_queue_goes_in_alone() -> None:
    admission, _, _ = new()
    [permit] = admission.admit("complete", [Size(1000, 1)])
    with pytest.raises(Problem):
        admission.admit("complete", [Size(1, 1)])
    permit.release()
    admission.admit("complete", [Size(1, 1)])


def test_retry_after_follows_the_drain_rate() -> None:
    admission, clock, _ = new(tokens=100)
    permits = [admission.admit("complete", [Size(20, 1)])[0] for _ in range(5)]
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
        admission.admit("complete", [Size(1, 1)])
    assert refused.value.status == 503
    assert refused.value.headers == {"retry-after": "1", "connection": "close"}
    assert sample(metrics, "voisin_rejected_total", task="complete", reason="draining") == 1


def test_waiting_for_the_last_one() -> None:
    async def main() -> None:
        admission, _, _ = new()
        await admission.wait_empty(5)
        [permit] = admission.admit("complete", [Size(1, 1)])
        waiting = asyncio.create_task(admission.wait_empty(5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        permit.release()
        await asyncio.wait_for(waiting, 1)
        admission.admit("complete", [Size(1, 1)])
        await admission.wait_empty(0.01)
        assert admission.jobs == 1

    asyncio.run(main())


def test_the_backlog_is_what_was_admitted() -> None:
    admission, _, metrics = new()
    admission.admit("complete", [Size(3, 1), Size(4, 1)])
    assert sample(metrics, "voisin_backlog_requests") == 2
    assert sample(metrics, "voisin_backlog_tokens") == 7
    assert sample(metrics, "voisin_queue_capacity_tokens") == 100


def timed(seconds: float = 2.0, rows: int = 4) -> tuple[Admission, Clock]:
    clock = Clock()
    return Admission(
        tokens=10**6, texts=10**6, seconds=seconds, rows=rows, metrics=Metrics(), clock=clock
    ), clock


def job(tokens: int = 10, model: str = "m") -> list[Size]:
    return [Size(tokens, 1, 1, model)]


def teach(admission: Admission, clock: Clock, jobs: int, each: float) -> None:
    """As many jobs of ten tokens, one after the other."""
    for _ in range(jobs):
        [permit] = admission.admit("complete", job())
        clock.now += each
        permit.release()


def test_a_queue_is_bounded_by_the_seconds_that_its_work_takes() -> None:
    admission, clock = timed()
    teach(admission, clock, 10, 0.5)  # 20 tokens a second
    clock.now += 1000  # an idle hour changes nothing
    for _ in range(5):
        admission.admit("complete", job())
    with pytest.raises(Problem) as refused:  # 50 tokens are 2.5 seconds of work
        admission.admit("complete", job())
    assert refused.value.status == 429
    assert "2.5 s of work wait for m" in refused.value.detail
    assert "VOISIN_QUEUE_SECONDS" in refused.value.detail
    assert refused.value.headers == {"retry-after": "1"}
    with pytest.raises(Problem):
        admission.check("complete", ["m"])  # also before anybody has counted tokens
    admission.admit("complete", job(model="other"))  # whose own queue is empty
    assert admission.jobs == 6


def test_what_the_running_batch_has_room_for_is_not_refused() -> None:
    admission, clock = timed(rows=4)
    teach(admission, clock, 10, 2.0)  # 5 tokens a second
    for _ in range(4):
        admission.admit("complete", job())
    with pytest.raises(Problem):
        admission.admit("complete", job())


def test_of_a_model_whose_speed_is_not_known_a_few_batches_wait() -> None:
    admission, _ = timed(rows=4)
    for _ in range(16):
        admission.admit("complete", job())
    with pytest.raises(Problem) as refused:
        admission.admit("complete", job())
    assert "speed is not known" in refused.value.detail


def test_what_was_dropped_says_nothing_about_the_speed() -> None:
    admission, clock = timed(rows=4)
    permits = [admission.admit("complete", job())[0] for _ in range(16)]
    clock.now += 1.0
    for permit in permits:
        permit.release(worked=False)
    for _ in range(16):
        admission.admit("complete", job())
    with pytest.raises(Problem) as refused:
        admission.admit("complete", job())
    assert "speed is not known" in refused.value.detail
