"""Processes that decode: the same answers as in this one, and nothing is lost whatever becomes of them."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from bundle.decoding import run as decode
from bundle.errors import InvalidRequest
from bundle.language import CompletionOptions, Language
from bundle.load import open_bundle
from bundle.translator import TranslationOptions, Translator
from service.errors import Problem
from service.metrics import Metrics
from service.processes import Processes, decode_in_processes
from service.registry import Opened, Registry
from service.settings import Settings, SettingsError
from service.ticket import Ticket
from tests.service.scripted import until

Model = Language | Translator
Jobs = dict[str, tuple[str, Callable[[], Any]]]


@pytest.fixture(scope="module")
def opened(models: Path) -> dict[str, Model]:
    found: dict[str, Model] = {}
    for name in ("chars-en", "fr-en", "slow-xx", "text-en"):
        model = open_bundle(models / name)
        assert isinstance(model, Model)
        found[name] = model
    return found


@contextmanager
def working(models: dict[str, Model], count: int = 2) -> Iterator[tuple[Processes, Metrics]]:
    metrics = Metrics()
    processes = Processes(models, processes=count, rows=64, metrics=metrics)
    processes.launch()
    try:
        yield processes, metrics
    finally:
        processes.stop()


def run(
    models: dict[str, Model], test: Callable[[Processes, Metrics], Awaitable[None]], count: int = 2
) -> None:
    with working(models, count) as (processes, metrics):

        async def main() -> None:
            processes.start(asyncio.get_running_loop())
            await asyncio.wait_for(test(processes, metrics), 60)

        asyncio.run(main())


def ticket(model: str, job: Any, seconds: float = 50.0, **options: Any) -> Ticket:
    task = "translate" if "-" in model and model.startswith("fr") else "complete"
    return Ticket(task, model, job, pickle.dumps, deadline=monotonic() + seconds, **options)


def jobs(models: dict[str, Model]) -> Jobs:
    """One of every kind: whatever a job may hold has to find its way."""
    translator, text, chars = models["fr-en"], models["text-en"], models["chars-en"]
    assert isinstance(translator, Translator)
    assert isinstance(text, Language)
    assert isinstance(chars, Language)
    many = " abc" * 200

    def completion(model: Language, prompt: str, *level: Any, **options: Any) -> Callable[[], Any]:
        return lambda: model.job(prompt, CompletionOptions(*level, **options))

    def translation(source: str, **options: Any) -> Callable[[], Any]:
        return lambda: translator.job(source, TranslationOptions(**options))

    return {
        "a sentence": ("fr-en", translation("abc defg")),
        "a beam and others": ("fr-en", translation("abc defg", beam=4, alternatives=2)),
        "numbers, tags, a glossary": (
            "fr-en",
            translation("<p>abc <b>12</b> defg %s</p>", format="html", glossary=(("defg", "gfed"),)),
        ),
        "many sentences": ("fr-en", translation("\n".join(["abc. defg."] * 40))),
        "nothing": ("fr-en", translation("  ")),
        "letters": ("chars-en", completion(chars, "ab", "char", 12)),
        "letters by chance": ("chars-en", completion(chars, "ab", "char", 12, temperature=1.0, seed=7, n=3)),
        "suggestions": ("text-en", completion(text, "the ki", "word", n=5)),
        "words": ("text-en", completion(text, "the king ", "word", 3)),
        "words and a stop": ("text-en", completion(text, "the ", "word", 3, stop=("que",))),
        "tokens steered": (
            "text-en",
            completion(
                text, "the king", "token", 9, temperature=0.0, presence_penalty=0.5, frequency_penalty=0.5,
                logit_bias=((5, 1.5),), logprobs=3, stop=("zz",),
            ),
        ),
        "a beam": ("text-en", completion(text, "the king", "token", 9, beam=3, n=2)),
        "a long prompt": ("chars-en", completion(chars, many[:60].replace(" ", ""), "char", 3)),
        "scores of a prompt": ("text-en", lambda: text.prompt_scores("the king", top=2)),
    }  # fmt: skip


def here(model: Model, job: Any) -> Any:
    decoder, asked = model.decoder(), 0
    while not job.done:
        for index in range(asked, len(job.requests)):
            decoder.add(job.requests[index], index)
        asked = len(job.requests)
        for event in decoder.step():
            job.feed(event.tag, event)
    return job.result()


def test_every_kind_of_job_has_the_same_answer_as_here(opened: dict[str, Model]) -> None:
    async def test(processes: Processes, metrics: Metrics) -> None:
        made = jobs(opened)
        streams: dict[str, list[Any]] = {name: [] for name in made}
        tickets = {
            name: ticket(model, make(), pieces=streams[name].extend) for name, (model, make) in made.items()
        }
        for name, (model, make) in made.items():
            processes.submit(tickets[name])
            assert pickle.loads(await tickets[name].result) == here(opened[model], make()), name
            assert tickets[name].started is not None
            assert tickets[name].finished is not None
        found = pickle.loads(tickets["letters by chance"].result.result())
        for choice, completion in enumerate(found):
            pieces = [piece.text for piece in streams["letters by chance"] if piece.choice == choice]
            assert "".join(pieces) == completion.text
        assert tickets["many sentences"].tokens_in > 80
        assert tickets["letters"].tokens_out > 0
        assert tickets["nothing"].tokens_out == 0
        # nothing of an answer stays behind, and what was counted there is counted here
        assert processes._tickets == {}
        await until(
            lambda: metrics.registry.get_sample_value("voisin_queue_depth", {"task": "complete"}) == 0
        )
        for task, some in (("complete", 9), ("translate", 5)):
            assert (
                metrics.registry.get_sample_value("voisin_queue_wait_seconds_count", {"task": task}) == some
            )
            read = metrics.registry.get_sample_value("voisin_tokens_total", {"task": task, "direction": "in"})
            assert read == sum(each.tokens_in for each in tickets.values() if each.task == task)
            assert (metrics.registry.get_sample_value("voisin_batch_size_count", {"task": task}) or 0) > 0
        for number in "01":
            held = metrics.registry.get_sample_value(
                "voisin_worker_resident_memory_bytes", {"worker": number}
            )
            assert (held or 0) > 10e6

    run(opened, test)


def test_who_leaves_frees_the_rows_within_a_step(opened: dict[str, Model]) -> None:
    async def test(processes: Processes, metrics: Metrics) -> None:
        slow = opened["slow-xx"]
        assert isinstance(slow, Language)
        options = CompletionOptions("char", 3000, temperature=1.0, seed=1)
        pieces: list[Any] = []
        gone, stays = (ticket("slow-xx", slow.job("a", options), pieces=pieces.extend) for _ in range(2))
        for each in (gone, stays):
            processes.submit(each)
        await until(lambda: processes.lanes["slow-xx"].rows == 2 and pieces)
        gone.leave()
        await until(lambda: processes.lanes["slow-xx"].rows == 1)
        with pytest.raises(Problem, match="cancelled"):
            await gone.result
        stays.leave()
        await until(lambda: processes.lanes["slow-xx"].rows == 0)
        with pytest.raises(Problem, match="cancelled"):
            await stays.result
        left = {"task": "complete", "stage": "running"}
        await until(lambda: metrics.registry.get_sample_value("voisin_cancelled_total", left) == 2)

    run(opened, test)


def test_deadlines_are_kept_there_and_may_be_put_off_from_here(opened: dict[str, Model]) -> None:
    async def test(processes: Processes, metrics: Metrics) -> None:
        slow = opened["slow-xx"]
        assert isinstance(slow, Language)
        long = CompletionOptions("char", 3000, temperature=1.0, seed=1)
        short = CompletionOptions("char", 12, temperature=1.0, seed=1)
        late = ticket("slow-xx", slow.job("a", long), 0.3)
        in_time = ticket("slow-xx", slow.job("a", short), 0.001)
        in_time.extend(in_time.deadline + 40)  # before it is sent
        extended = ticket("slow-xx", slow.job("a", short), 0.02)
        for each in (late, in_time, extended):
            processes.submit(each)
        extended.extend(extended.deadline + 40)  # after
        with pytest.raises(Problem) as refused:
            await late.result
        assert (refused.value.status, refused.value.code) == (504, "deadline_exceeded")
        assert await in_time.result == await extended.result
        rejected = {"task": "complete", "reason": "deadline"}
        await until(lambda: metrics.registry.get_sample_value("voisin_rejected_total", rejected) == 1)

    run(opened, test)


def test_a_process_that_is_killed(opened: dict[str, Model]) -> None:
    """Everybody is told, those of the other process too, and whoever comes later."""

    async def test(processes: Processes, metrics: Metrics) -> None:
        slow = opened["slow-xx"]
        assert isinstance(slow, Language)
        options = CompletionOptions("char", 3000, temperature=1.0, seed=1)
        lost = [ticket("slow-xx", slow.job("a", options)) for _ in range(3)]
        for each in lost:
            processes.submit(each)
        await until(lambda: processes.lanes["slow-xx"].rows == 3)
        one, _ = active_children()
        os.kill(one.pid or 0, signal.SIGKILL)
        for each in lost:
            with pytest.raises(Problem) as told:
                await each.result
            assert told.value.code == "worker_dead"
        assert processes.died_at is not None
        with pytest.raises(Problem, match="worker_dead"):
            processes.submit(ticket("slow-xx", slow.job("a", options)))
        await until(lambda: not active_children())

    run(opened, test)


def test_a_job_that_cannot_be_sent_is_nobody_elses_trouble(opened: dict[str, Model]) -> None:
    async def test(processes: Processes, metrics: Metrics) -> None:
        chars = opened["chars-en"]
        assert isinstance(chars, Language)
        good, bad = chars.job("ab", CompletionOptions("char", 3)), chars.job("ab")
        bad.requests[0].__dict__["stop"] = lambda ids: False
        one, other = ticket("chars-en", bad), ticket("chars-en", good)
        processes.submit(one)
        processes.submit(other)
        with pytest.raises(Problem) as told:
            await one.result
        assert told.value.status == 500
        assert pickle.loads(await other.result)

    run(opened, test)


def test_what_a_job_raises_comes_back(opened: dict[str, Model]) -> None:
    """A problem with all that it says."""
    problem = Problem(400, "code", "detail", field="q", limit=3.0, headers={"a": "b"}, outcome="rejected")
    back = pickle.loads(pickle.dumps(problem))
    assert vars(back) == vars(problem)
    assert str(back) == str(problem)

    async def test(processes: Processes, metrics: Metrics) -> None:
        text = opened["text-en"]
        assert isinstance(text, Language)
        unknown = text.tokenizer.special.unk
        job = text.prompt_scores("the")
        job._ids = (unknown if unknown is not None else text.tokenizer.special.pad,) * len(job._ids)
        with pytest.raises(InvalidRequest) as raised:
            here(text, job)
        again = text.prompt_scores("the")
        again._ids = job._ids
        one = ticket("text-en", again)
        processes.submit(one)
        with pytest.raises(Problem) as told:
            await one.result
        assert (told.value.status, told.value.field) == (400, raised.value.field)

    run(opened, test)


def test_more_than_a_socket_holds(opened: dict[str, Model]) -> None:
    """The process is in a step while the event loop sends it some megabytes, and the loop goes on."""

    async def test(processes: Processes, metrics: Metrics) -> None:
        slow, translator = opened["slow-xx"], opened["fr-en"]
        assert isinstance(slow, Language)
        assert isinstance(translator, Translator)
        busy = ticket("slow-xx", slow.job("a", CompletionOptions("char", 40, temperature=1.0, seed=1)))
        processes.submit(busy)
        text = "\n".join(f"abc {number}. defg." for number in range(800))
        long = [ticket("fr-en", translator.job(text, TranslationOptions(beam=1))) for _ in range(4)]
        sent = monotonic()
        for each in long:
            processes.submit(each)
        assert monotonic() - sent < 5
        texts = {pickle.loads(await each.result).text for each in long}
        assert len(texts) == 1
        assert texts.pop().count("\n") == 799
        await busy.result

    run(opened, test, count=1)


def test_stopping_in_the_middle_leaves_no_process(opened: dict[str, Model]) -> None:
    async def test(processes: Processes, metrics: Metrics) -> None:
        slow = opened["slow-xx"]
        assert isinstance(slow, Language)
        processes.submit(ticket("slow-xx", slow.job("a", CompletionOptions("char", 3000))))
        await until(lambda: processes.lanes["slow-xx"].rows == 1)

    begun = monotonic()
    run(opened, test)
    assert active_children() == []
    assert monotonic() - begun < 30


def test_who_decodes(opened: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    def registry(*models: Model) -> Registry:
        return Registry([Opened(Path(), model, 0.0, {}) for model in models], [])

    some = registry(opened["chars-en"])
    assert decode_in_processes(Settings(threads=2), some)
    assert not decode_in_processes(Settings(threads=1), some)
    assert decode_in_processes(Settings(threads=1, workers="processes"), some)
    assert not decode_in_processes(Settings(threads=2, workers="threads"), some)
    assert not decode_in_processes(Settings(threads=2), registry())
    monkeypatch.setattr(opened["chars-en"], "provider", "CUDAExecutionProvider")
    assert not decode_in_processes(Settings(threads=2), some)
    with pytest.raises(SettingsError, match="cannot be forked"):
        decode_in_processes(Settings(workers="processes"), some)


def test_jobs_here_are_as_decode_runs_them(opened: dict[str, Model]) -> None:
    """What the tests above compare with is the decoder core itself."""
    chars = opened["chars-en"]
    assert isinstance(chars, Language)
    job = chars.job("ab", CompletionOptions("char", 5))
    [[finished]] = decode(chars.decoder(), job.requests)
    assert here(chars, chars.job("ab", CompletionOptions("char", 5)))[0].tokens == len(finished.ids)
