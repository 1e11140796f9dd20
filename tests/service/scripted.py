"""A decoder that can be told to wait, to fail, or to kill its thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable

from bundle.decoding import Decoder, Event, Finished, Request, Token
from bundle.stepper import Prompt
from service.admission import Admission
from service.metrics import Metrics


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread does."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")


class Job:
    """Wants `length` tokens for each of `rows` requests."""

    cost = 1

    def __init__(self, rows: int = 1, length: int = 3) -> None:
        self.requests = [Request(Prompt((1,)), max_tokens=length) for _ in range(rows)]
        self.left = rows
        self.fed: list[Event] = []

    @property
    def done(self) -> bool:
        return self.left == 0

    def feed(self, index: int, event: Event) -> list[str]:
        self.fed.append(event._replace(tag=index))
        self.left -= isinstance(event, Finished)
        return [f"{index}:{len(self.fed)}"]

    def result(self) -> str:
        return "result"


class Counting:
    """A decoder that counts up for each request; it can wait, fail, or kill the thread."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.rows: dict[Hashable, tuple[Request, list[int]]] = {}

    @property
    def active(self) -> int:
        return len(self.rows)

    def add(self, request: Request, tag: Hashable) -> None:
        if request.max_tokens == 13:
            raise ValueError("thirteen")
        self.rows[tag] = (request, [])

    def cancel(self, tag: Hashable) -> list[Finished]:
        self.script.cancelled.append(tag)
        return [Finished(tag, 0, tuple(self.rows.pop(tag)[1]), 0.0, "cancelled")] if tag in self.rows else []

    def step(self) -> list[Event]:
        self.script.gate.wait(5)
        self.script.batches.append(len(self.rows))
        if self.script.failure is not None:
            raise self.script.failure
        events: list[Event] = []
        for tag, (request, ids) in list(self.rows.items()):
            ids.append(len(ids))
            events.append(Token(tag, 0, ids[-1], 0.0))
            if len(ids) == request.max_tokens:
                events.append(Finished(tag, 0, tuple(ids), 0.0, "length"))
                del self.rows[tag]
        return events


class Script:
    """What the decoders do, and what they saw."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.failure: BaseException | None = None
        self.batches: list[int] = []
        self.cancelled: list[Hashable] = []
        self.metrics = Metrics()
        self.admission = Admission(tokens=10, texts=10, metrics=self.metrics)

    def make(self) -> Decoder:
        return Counting(self)  # type: ignore[return-value]


def value(script: Script, name: str, **labels: str) -> float:
    found = script.metrics.registry.get_sample_value(name, labels)
    assert found is not None
    return found
