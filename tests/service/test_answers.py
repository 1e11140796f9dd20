"""Cache, single flight and admission, in this order, over a decoder that can be held."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from service.answers import Answers, Flight, Question
from service.batcher import Batcher
from service.cache import MemoryStore
from service.errors import Problem
from service.redis_store import RedisStore
from service.ticket import Ticket
from service.trace import Trace
from tests.service.scripted import Job, Script, until, value


@dataclass
class Desk:
    """Answers over one scripted model, and how often a job was made."""

    script: Script
    answers: Answers
    memory: MemoryStore
    jobs: list[Job] = field(default_factory=list)

    def question(self, text: str = "q", *, cacheable: bool = True, length: int = 3) -> Question:
        def job() -> Job:
            self.jobs.append(Job(length=length))
            return self.jobs[-1]

        return Question("complete", "m", "r", text, str, _encode, job, cacheable)

    async def ask(self, *questions: Question, fresh: bool = False) -> tuple[list[bytes], str]:
        trace = new_trace()
        return await self.answers.get(questions, fresh=fresh, trace=trace), trace.cache


def _encode(result: str) -> bytes:
    return b'"' + result.encode() + b'"'


def new_trace() -> Trace:
    return Trace(cast(Any, {"headers": []}))


def run(test: Callable[[Desk], Awaitable[None]], *, seconds: float = 5.0, redis: object = None) -> None:
    async def main() -> None:
        script = Script()
        batcher = Batcher({"m": script.make}, threads=1, metrics=script.metrics)
        memory = MemoryStore(max_bytes=100_000, max_entries=100)
        answers = Answers(memory, cast(RedisStore, redis), script.admission, batcher, script.metrics, seconds)
        batcher.start(asyncio.get_running_loop())
        try:
            await test(Desk(script, answers, memory))
        finally:
            script.gate.set()
            batcher.stop()

    asyncio.run(main())


def test_miss_then_hit() -> None:
    async def test(desk: Desk) -> None:
        assert await desk.ask(desk.question()) == ([b'"result"'], "miss")
        assert await desk.ask(desk.question()) == ([b'"result"'], "hit")
        assert len(desk.jobs) == 1

    run(test)


def test_who_was_answered_is_gone_at_once() -> None:
    """What refers to itself would stay until the collector of cycles comes by, which stops everybody."""

    def left() -> int:
        return sum(type(each) in (Ticket, Flight, Question) for each in gc.get_objects())

    async def test(desk: Desk) -> None:
        await desk.ask(*(desk.question(text) for text in "abcab"))
        stream = await desk.answers.stream(desk.question("d"), fresh=False, trace=new_trace())
        assert [piece async for piece in stream.pieces()]
        del stream
        await asyncio.sleep(0.1)  # a decoding thread may still be in its last turn
        assert left() == 0

    gc.collect()
    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


def test_what_is_left_to_chance_is_made_each_time() -> None:
    async def test(desk: Desk) -> None:
        for _ in range(2):
            assert (await desk.ask(desk.question(cacheable=False)))[1] == "bypass"
        assert len(desk.jobs) == 2
        assert len(desk.memory) == 0

    run(test)


def test_no_cache_computes_and_refreshes() -> None:
    async def test(desk: Desk) -> None:
        question = desk.question()
        desk.memory.keep(question.key, b'"stale"')
        assert await desk.ask(question) == ([b'"stale"'], "hit")
        assert await desk.ask(question, fresh=True) == ([b'"result"'], "miss")
        assert await desk.ask(question) == ([b'"result"'], "hit")

    run(test)


def test_equal_questions_share_one_flight() -> None:
    async def test(desk: Desk) -> None:
        desk.script.gate.clear()
        asked = [asyncio.create_task(desk.ask(desk.question())) for _ in range(5)]
        await until(lambda: value(desk.script, "voisin_cache_joined_total") == 4)
        desk.script.gate.set()
        assert {(found[0], cache) for found, cache in await asyncio.gather(*asked)} == {(b'"result"', "miss")}
        assert len(desk.jobs) == 1

    run(test)


def test_the_last_to_leave_stops_the_work() -> None:
    async def test(desk: Desk) -> None:
        question = desk.question(length=10_000_000)
        first, second = (asyncio.create_task(desk.ask(question)) for _ in range(2))
        await until(lambda: len(desk.script.batches) > 3)
        first.cancel()
        await asyncio.sleep(0.02)
        assert not desk.script.cancelled
        second.cancel()
        await until(lambda: desk.script.cancelled)
        await until(lambda: desk.script.admission.jobs == 0)
        assert len(desk.memory) == 0
        # who comes after them begins anew
        assert (await desk.ask(desk.question()))[1] == "miss"

    run(test)


def test_a_batch_asks_only_for_what_is_missing_and_once_for_twins() -> None:
    async def test(desk: Desk) -> None:
        await desk.ask(desk.question("a"))
        found, cache = await desk.ask(*(desk.question(text) for text in "abcb"))
        assert (found, cache) == ([b'"result"'] * 4, "miss")
        assert len(desk.jobs) == 3
        assert (await desk.ask(*(desk.question(text) for text in "cab")))[1] == "hit"

    run(test)


def test_a_refused_batch_leaves_nothing_behind() -> None:
    async def test(desk: Desk) -> None:
        desk.script.gate.clear()
        first = asyncio.create_task(desk.ask(desk.question("first")))
        await until(lambda: desk.script.admission.jobs == 1)
        with pytest.raises(Problem) as refused:
            await desk.ask(*(desk.question(str(number)) for number in range(20)))
        assert refused.value.status == 429
        assert desk.script.admission.jobs == 1
        desk.script.gate.set()
        await first
        assert (await desk.ask(desk.question("3")))[1] == "miss"

    run(test)


def test_a_hit_is_never_refused() -> None:
    async def test(desk: Desk) -> None:
        await desk.ask(desk.question())
        desk.script.admission.draining = True
        assert (await desk.ask(desk.question()))[1] == "hit"
        with pytest.raises(Problem) as refused:
            await desk.ask(desk.question("other"))
        assert refused.value.status == 503

    run(test)


def test_a_late_answer_is_504_and_frees_its_rows() -> None:
    async def test(desk: Desk) -> None:
        with pytest.raises(Problem) as late:
            await desk.ask(desk.question(length=10_000_000))
        assert late.value.status == 504
        await until(lambda: desk.script.admission.jobs == 0)

    run(test, seconds=0.1)


def test_a_stuck_worker_does_not_hold_the_caller() -> None:
    async def test(desk: Desk) -> None:
        desk.script.gate.clear()
        with pytest.raises(Problem) as late:
            await desk.ask(desk.question())
        assert late.value.status == 504

    run(test, seconds=0.1)


def test_a_stream_gives_pieces_and_leaves_a_hit() -> None:
    async def test(desk: Desk) -> None:
        stream = await desk.answers.stream(desk.question(), fresh=False, trace=new_trace())
        assert [piece async for piece in stream.pieces()] == ["0:1", "0:2", "0:3", "0:4"]
        assert stream.whole() == b'"result"'
        trace = new_trace()
        replay = await desk.answers.stream(desk.question(), fresh=False, trace=trace)
        assert [piece async for piece in replay.pieces()] == []
        assert (replay.whole(), trace.cache) == (b'"result"', "hit")
        assert (await desk.ask(desk.question()))[1] == "hit"

    run(test)


def test_a_stream_that_is_closed_frees_its_rows_and_is_not_cached() -> None:
    async def test(desk: Desk) -> None:
        stream = await desk.answers.stream(desk.question(length=10_000_000), fresh=False, trace=new_trace())
        async for _ in stream.pieces():
            break
        stream.close()
        await until(lambda: desk.script.admission.jobs == 0)
        assert len(desk.memory) == 0

    run(test)


class Remembering:
    """A second tier with what it was given."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self.values = values
        self.kept: list[str] = []

    async def get(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        return self.values.get(key)

    def keep(self, key: str, value: bytes) -> None:
        self.kept.append(key)


def test_the_second_tier_is_asked_on_a_miss_and_told_of_an_answer() -> None:
    question = Question("complete", "m", "r", "q", str, _encode, Job)
    other = Question("complete", "m", "r", "other", str, _encode, Job)
    strange = Question("complete", "m", "r", "strange", str, _encode, Job)
    redis = Remembering({question.key: b'"shared"', strange.key: b'{"not": "a string"}'})

    async def test(desk: Desk) -> None:
        assert await desk.ask(question) == ([b'"shared"'], "hit")
        assert await desk.ask(question, other) == ([b'"shared"', b'"result"'], "miss")
        assert await desk.ask(strange) == ([b'"result"'], "miss")
        assert redis.kept == [other.key, strange.key]
        redis.values.clear()
        assert await desk.ask(question) == ([b'"shared"'], "hit")

    run(test, redis=redis)


def test_long_texts_are_read_beside_the_event_loop() -> None:
    async def test(desk: Desk) -> None:
        readers: list[str] = []

        def made(text: str, size: int) -> Question:
            question = desk.question(text)
            make = question.job

            def job() -> Any:
                readers.append(threading.current_thread().name)
                return make()

            question.job, question.size = job, size
            return question

        assert await desk.ask(made("short", 100)) == ([b'"result"'], "miss")
        assert await desk.ask(made("long", 5000)) == ([b'"result"'], "miss")
        assert await desk.ask(made("half", 600), made("other half", 600)) == ([b'"result"'] * 2, "miss")
        assert readers[0] == threading.main_thread().name
        assert len(readers) == 4
        assert threading.main_thread().name not in readers[1:]
        asked = await asyncio.gather(*(desk.ask(made("twice", 5000)) for _ in range(2)))
        assert asked == [([b'"result"'], "miss")] * 2

    run(test)


@pytest.mark.parametrize("size", [10, 5000])
def test_nothing_is_read_of_what_is_refused(size: int) -> None:
    async def test(desk: Desk) -> None:
        desk.script.gate.clear()
        first = asyncio.create_task(desk.ask(*(desk.question(str(number)) for number in range(10))))
        await until(lambda: desk.script.admission.jobs == 10)  # of ten texts
        question = desk.question("refused")
        question.size = size
        with pytest.raises(Problem) as refused:
            await desk.ask(question)
        assert refused.value.status == 429
        assert len(desk.jobs) == 10
        desk.script.gate.set()
        await first

    run(test)


def test_a_long_text_asked_twice_in_a_request_is_read_once() -> None:
    async def test(desk: Desk) -> None:
        questions = [desk.question(text) for text in ("a", "b", "a", "a", "b")]
        for question in questions:
            question.size = 5000
        values, cache = await desk.ask(*questions)
        assert values == [b'"result"'] * 5
        assert cache == "miss"
        assert len(desk.jobs) == 2

    run(test)


def test_long_texts_are_read_no_longer_than_anybody_waits() -> None:
    async def test(desk: Desk) -> None:
        reading, read_on = threading.Event(), threading.Event()
        made: list[str] = []

        def slow(text: str) -> Question:
            def job() -> Job:
                made.append(text)
                reading.set()
                read_on.wait(30)
                return Job()

            question = Question("complete", "m", "r", text, str, _encode, job)
            question.size = 5000
            return question

        late = [asyncio.create_task(desk.ask(slow(f"{number}"), slow(f"{number}+"))) for number in range(3)]
        for task in late:
            with pytest.raises(Problem) as caught:
                await task
            assert caught.value.status == 504
        read_on.set()
        assert await desk.ask(desk.question("short")) == ([b'"result"'], "miss")
        # whoever's turn came in time began, and nobody read a second text
        assert made[0] == "0"
        assert set(made) <= {"0", "1", "2"}
        assert value(desk.script, "voisin_backlog_requests") == 0

    run(test, seconds=0.2)
