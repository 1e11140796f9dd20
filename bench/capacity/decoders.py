"""What the steps of a decoder cost, and how many of them real texts take: driven as the batcher does."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from scipy.optimize import nnls

from bench.capacity.costs import Job, Lane, Part
from bundle.decoding import Decoder, Finished
from bundle.language import CompletionOptions, Language
from bundle.stepper import Stepper
from bundle.translator import Translator

TOGETHER = (1, 2, 4, 8, 16, 32)
"""Jobs that are kept in a decoder at once, one after the other."""

ASKED = CompletionOptions(level="word")
"""What `GET /complete?prompt=` asks of a model of words."""

Model = Language | Translator


def job_of(model: Model, text: str) -> Any:
    """The job that the service would make of a text."""
    return model.job(text, ASKED) if isinstance(model, Language) else model.job(text)


def size_of(model: Model, text: str) -> Job:
    """What a text comes to: its parts, each with the steps that it stays in a decoder."""
    job, decoder, parts = job_of(model, text), model.decoder(), []
    began, now, asked = {}, 0, 0
    while not job.done:
        for index in range(asked, len(job.requests)):
            decoder.add(job.requests[index], index)
            began[index] = now
        asked = len(job.requests)
        events, now = decoder.step(), now + 1
        for event in events:
            job.feed(event.tag, event)
            if isinstance(event, Finished) and not event.left:
                request = job.requests[event.tag]
                read = len(request.prompt.ids) + len(request.prompt.source)
                parts.append(Part((read, request.rows, now - began[event.tag])))
    return Job(cost=job.cost, parts=parts)


class _Watched:
    """A graph, and the processor time that its runs took."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.seconds = 0.0

    def run(self, feeds: Mapping[str, Any], fetches: Sequence[str]) -> list[Any]:
        started = time.thread_time()
        found: list[Any] = self._graph.run(feeds, fetches)
        self.seconds += time.thread_time() - started
        return found

    def bind(self, feeds: Mapping[str, Any], fetches: Mapping[str, Any]) -> _WatchedRun | None:
        bound = self._graph.bind(feeds, fetches)
        return _WatchedRun(self, bound) if bound else None


class _WatchedRun:
    """A run over arrays that the graph knows, one step or several."""

    def __init__(self, graph: _Watched, run: Any) -> None:
        self._graph = graph
        self._run = run

    def __call__(self) -> None:
        started = time.thread_time()
        self._run()
        self._graph.seconds += time.thread_time() - started

    def ahead(self, reach: Any) -> Any:
        started = time.thread_time()
        found = self._run.ahead(reach)
        self._graph.seconds += time.thread_time() - started
        return found


def _watch(stepper: Stepper) -> list[_Watched]:
    """Puts a clock around the graphs of a model."""
    found = [_Watched(stepper._graph)]
    stepper._graph = found[0]
    if stepper._in_place is not None:
        stepper._in_place = found[0]
    if stepper._encoder is not None:
        found.append(_Watched(stepper._encoder))
        stepper._encoder = found[1]
    return found


class _Run:
    """A decoder that is kept at work with a number of jobs; a step says what it had to do and its time."""

    def __init__(self, model: Model, texts: Iterator[str], together: int) -> None:
        self._model, self._texts, self._together = model, texts, together
        self._decoder: Decoder = model.decoder()
        self._waiting: deque[tuple[int, int]] = deque()  # rows and tokens of requests that have not begun
        self._jobs: dict[int, Any] = {}
        self._asked: dict[int, int] = {}
        self._number = 0

    def step(self) -> tuple[tuple[int, int, int], float]:
        """(rows running, rows that begin, tokens these read), and seconds."""
        while len(self._jobs) < self._together:
            job = job_of(self._model, next(self._texts))
            if not job.done:
                self._jobs[self._number], self._asked[self._number] = job, 0
                self._ask(self._number)
                self._number += 1
        rows, queued = self._decoder.active, self._decoder.waiting
        started = time.thread_time()
        events = self._decoder.step()
        begun = [self._waiting.popleft() for _ in range(queued - self._decoder.waiting)]
        for event in events:
            number, index = event.tag  # type: ignore[misc]
            self._jobs[number].feed(index, event)
        seconds = time.thread_time() - started
        for number in [event.tag[0] for event in events if isinstance(event, Finished)]:  # type: ignore[index]
            if number in self._jobs:
                self._ask(number)
                if self._jobs[number].done:
                    del self._jobs[number], self._asked[number]
        return (rows, sum(row for row, _ in begun), sum(read for _, read in begun)), seconds

    def _ask(self, number: int) -> None:
        job = self._jobs[number]
        for index in range(self._asked[number], len(job.requests)):
            request = job.requests[index]
            self._decoder.add(request, (number, index))
            self._waiting.append((request.rows, len(request.prompt.ids) + len(request.prompt.source)))
        self._asked[number] = len(job.requests)


def measure_lane(model: Model, texts: Sequence[str], *, seconds: float) -> Lane:
    """The costs of a model, from `seconds` of steps for each of TOGETHER, and the sizes of the texts."""
    jobs = [size_of(model, text) for text in texts]
    graphs = _watch(model.stepper)
    work: list[tuple[int, int, int]] = []
    times: list[float] = []
    endless = cycle(texts)
    inside = 0.0
    for together in TOGETHER:
        run = _Run(model, endless, together)
        for _ in range(20):
            run.step()
        before, until = sum(graph.seconds for graph in graphs), time.thread_time() + seconds
        while time.thread_time() < until:
            done, took = run.step()
            work.append(done)
            times.append(took)
        inside += sum(graph.seconds for graph in graphs) - before
    found, error = fit(work, times)
    return Lane(
        model=model.manifest.name,
        **found,
        python=round(1.0 - inside / sum(times), 3),
        error=round(error, 3),
        jobs=jobs,
    )


def fit(work: Sequence[tuple[int, int, int]], times: Sequence[float]) -> tuple[dict[str, float], float]:
    """The costs of `Lane.step`, none of them negative, with the least relative errors, and their median.

    Steps of equal work are one observation, of their median time, so that interruptions count for little; one
    that was seen eight times or more is trusted most.
    """
    groups: dict[tuple[int, int, int], list[float]] = {}
    for done, took in zip(work, times, strict=True):
        groups.setdefault(done, []).append(took)
    table = np.array([(r > 0, r, b > 0, b, t) for r, b, t in groups], np.float64)
    took = np.array([np.median(each) for each in groups.values()])
    counts = np.array([len(each) for each in groups.values()], np.float64)
    trust = np.sqrt(np.minimum(counts, 8.0))
    found, _ = nnls(table * (trust / took)[:, None], trust)
    errors = np.abs(table @ found / took - 1.0)
    names = ("running", "row", "begin", "begun", "token")
    return (
        {name: float(f"{value:.4g}") for name, value in zip(names, found, strict=True)},
        float(np.median(errors)),
    )
