"""Does HTTP eat the engine? The same work through workers of this process, and asked of a server.

Both sides have the same cores, the same settings and as many askers, each with one request under way. The
clients of the server run on the same cores too, or `apart`, on another. Nothing is taken from a cache.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import uvloop

from bench.cores import on, split, told
from bench.load import Load, drive, post, processor_seconds
from bench.rounds import Row, interleave, rows
from bench.sentences import english, french
from bundle.decoding import Finished
from bundle.language import CompletionOptions, Language
from bundle.load import open_bundle
from bundle.translator import TranslationOptions, Translator
from export.server import HOST, Server, serve
from service.batcher import Batcher
from service.metrics import Metrics
from service.processes import Processes
from service.settings import Settings
from service.ticket import Job, Ticket
from service.workers import Workers

ASKERS = 16
PEER = "in process"
WORDS = 24
"""Words that a completion may have where words are counted."""
TOKENS = 32
TEXTS = 64
"""Both sides go round them, so that both have the same work."""
_TOKENS = re.compile(rb'"(?:completion_)?tokens":(\d+)')
_FOREVER = 1e9
_WARM = 0.3  # seconds
_BOUND = "prefill + 2 steps"


@dataclass(frozen=True)
class Engine:
    """One model behind workers, as the service has it."""

    name: str
    workers: Workers
    make: Callable[[str], Job]
    texts: Sequence[str]

    def run(self, seconds: float, *, streams: bool) -> tuple[float, float, float]:
        """Answers and tokens written, a second, and answers a second of processor time."""
        asked, numbers = 0, count()
        tokens = 0

        async def ask(until: float) -> None:
            nonlocal asked, tokens
            while time.perf_counter() < until:
                job = self.make(self.texts[next(numbers) % len(self.texts)])
                ticket = Ticket(
                    "bench", self.name, job, lambda _: b"", deadline=_FOREVER,
                    pieces=_nobody if streams else None,
                )  # fmt: skip
                self.workers.submit(ticket)
                await ticket.result
                asked += 1
                tokens += ticket.tokens_out

        async def everybody(seconds: float) -> None:
            until = time.perf_counter() + seconds
            await asyncio.gather(*(ask(until) for _ in range(ASKERS)))

        async def measured() -> tuple[float, float]:
            nonlocal asked, tokens
            self.workers.start(asyncio.get_running_loop())
            await everybody(_WARM)  # they are fresh, and those of the server are not
            asked = tokens = 0
            began, before = time.perf_counter(), processor_seconds(os.getpid())
            await everybody(seconds)
            took, spent = time.perf_counter() - began, processor_seconds(os.getpid()) - before
            self.workers.stop()
            return took, spent

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            took, spent = runner.run(measured())
        return asked / took, tokens / took, asked / spent


def measure(models: Path, *, rounds: int = 9, seconds: float = 1.5, apart: bool = False) -> list[Row]:
    """Translations a second, streamed tokens a second, and what the first token waits for at idle."""
    server_cores, client_cores = split(apart=apart)
    where = told(server_cores, client_cores)
    translator, language = open_bundle(models / "fr-en"), open_bundle(models / "text-en")
    assert isinstance(translator, Translator)
    assert isinstance(language, Language)
    source, prompts = french(TEXTS), english(TEXTS)
    translated = [{"q": text, "source": "fr", "target": "en", "model": "fr-en"} for text in source]
    worded = [{"prompt": text, "model": "text-en", "max_tokens": WORDS, "stream": True} for text in prompts]
    spelt = [
        {"prompt": text, "model": "text-en", "max_tokens": TOKENS, "temperature": 0, "stream": True,
         "stream_options": {"include_usage": True}}
        for text in prompts
    ]  # fmt: skip
    translate = partial(translator.job, options=TranslationOptions())
    by_words = partial(language.job, options=CompletionOptions("word", WORDS))
    by_tokens = partial(language.job, options=CompletionOptions("token", TOKENS, temperature=0.0))
    sides: list[tuple[str, list[dict[str, object]], Callable[[], Engine]]] = [
        ("/translate", translated, lambda: engine(translator, translate, source)),
        ("/complete", worded, lambda: engine(language, by_words, prompts)),
        ("/v1/completions", spelt, lambda: engine(language, by_tokens, prompts)),
    ]
    found: list[Row] = []
    with on(server_cores), serve(models, {"VOISIN_LOG_LEVEL": "warning"}) as server:
        for path, bodies, fresh in sides:
            streams = path != "/translate"
            asked = _requests(server, path, bodies)
            question = f"{path}{', streamed' * streams}, {where}"
            found += compare(
                fresh, server, asked, client_cores, question, streams=streams, rounds=rounds, seconds=seconds
            )
        asked = _requests(server, "/v1/completions", spelt)
        one = _requests(server, "/v1/completions", [body | {"max_tokens": 1} for body in spelt])
        found += first_token(language, by_tokens, prompts, server, asked, one, client_cores, rounds=rounds)
    return found


def engine(model: Language | Translator, make: Callable[[str], Job], texts: Sequence[str]) -> Engine:
    """Fresh workers over a model, with the service's defaults; processes where the service has them."""
    settings, name = Settings(), model.manifest.name
    workers: Workers
    if settings.worker_count > 1:
        workers = processes = Processes(
            {name: model}, processes=1, rows=settings.batch_rows, metrics=Metrics()
        )
        processes.launch()
    else:
        makers = {name: partial(model.decoder, max_rows=settings.batch_rows)}
        workers = Batcher(makers, threads=1, metrics=Metrics())
    return Engine(name, workers, make, texts)


def compare(
    fresh: Callable[[], Engine],
    server: Server,
    asked: list[bytes],
    clients: frozenset[int],
    question: str,
    *,
    streams: bool,
    rounds: int,
    seconds: float,
) -> list[Row]:
    """Answers and tokens, a second and a second of processor time: in this process, and by the server."""
    wall: dict[str, list[float]] = {PEER: [], "server": []}
    tokens: dict[str, list[float]] = {PEER: [], "server": []}
    processor: dict[str, list[float]] = {PEER: [], "server": []}
    spelt: dict[str, list[float]] = {PEER: [], "server": []}

    def inside() -> float:
        rate, written, cost = fresh().run(seconds, streams=streams)
        spent = ((processor, cost), (spelt, cost * written / rate))
        for values, value in ((wall, rate), (tokens, written), *spent):
            values[PEER].append(value)
        return rate

    def outside() -> float:
        with on(clients):
            load = _drive(server, asked, ASKERS, seconds)
        for values, value in ((wall, load.rate), (processor, load.processor_rate)):
            values["server"].append(value)
        tokens["server"].append(_written(load) / load.seconds)
        spelt["server"].append(_written(load) / load.processor)
        return load.rate

    interleave({PEER: inside, "server": outside}, rounds=rounds)
    kinds = [(wall, "answers/s"), (processor, "answers/s of processor time")]
    if streams:
        kinds += [(tokens, "tokens/s"), (spelt, "tokens/s of processor time")]
    found: list[Row] = []
    for values, unit in kinds:
        kept = {side: some[1:] for side, some in values.items()}  # the first of each was the warm-up
        found += rows(f"{question}, {ASKERS} askers", kept, unit=unit, peer=PEER)
    return found


def first_token(
    model: Language,
    make: Callable[[str], Job],
    prompts: Sequence[str],
    server: Server,
    asked: list[bytes],
    one: list[bytes],
    clients: frozenset[int],
    *,
    rounds: int,
) -> list[Row]:
    """At idle: the first piece of a stream, beside prefill and two steps in this process.

    By the clock, which the rest of the machine has a part in; and the server's processor time for an answer
    of one token, from its first byte to its last.
    """
    numbers = count()
    clock: dict[str, list[float]] = {_BOUND: [], "first token": []}
    processor: dict[str, list[float]] = {_BOUND: [], "an answer of one token": []}

    def bound() -> float:
        took = [_stepped(model, make(prompts[next(numbers) % len(prompts)])) for _ in range(50)]
        took = [each for each in took if not math.isnan(each[0])]
        clock[_BOUND].append(statistics.median(each for each, _ in took))
        processor[_BOUND].append(statistics.median(each for _, each in took))
        return clock[_BOUND][-1]

    def outside() -> float:
        with on(clients):
            clock["first token"].append(statistics.median(_drive(server, asked, 1, 1.0).firsts) * 1e3)
            load = _drive(server, one, 1, 1.0)
        processor["an answer of one token"].append(load.processor / load.requests * 1e3)
        return clock["first token"][-1]

    interleave({_BOUND: bound, "first token": outside}, rounds=rounds)
    question = "/v1/completions, streamed, one asker: first token"
    found: list[Row] = []
    for values, what in ((clock, ""), (processor, ", processor time")):
        kept = {side: some[1:] for side, some in values.items()}  # the first of each was the warm-up
        found += rows(question + what, kept, unit="ms", peer=_BOUND)
    return found


def _stepped(model: Language, job: Job) -> tuple[float, float]:
    """Milliseconds of prefill and two steps, by the clock and of processor time; NaN for a job that ends
    sooner.
    """
    decoder = model.decoder()
    for place, request in enumerate(job.requests):
        decoder.add(replace(request, max_tokens=3), place)  # more would be decoded ahead
    began, before = time.perf_counter(), time.process_time()
    ends: list[str] = []
    while decoder.active or decoder.waiting:
        ends += [event.reason for event in decoder.step() if isinstance(event, Finished)]
    took, spent = (time.perf_counter() - began) * 1e3, (time.process_time() - before) * 1e3
    return (took, spent) if ends == ["length"] * len(ends) else (math.nan, math.nan)


def _written(load: Load) -> int:
    return sum(int(found) for end in load.ends for found in _TOKENS.findall(end))


def _requests(server: Server, path: str, bodies: Sequence[dict[str, object]]) -> list[bytes]:
    return [post(path, json.dumps(body), host=f"{HOST}:{server.port}") for body in bodies]


def _drive(server: Server, asked: Sequence[bytes], askers: int, seconds: float) -> Load:
    return drive(HOST, server.port, asked, concurrency=askers, seconds=seconds, server=server.process.pid)


def _nobody(pieces: list[Any]) -> None:
    """Where the pieces of a stream go that nobody reads."""
