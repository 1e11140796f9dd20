"""Three questions a supervisor asks, answered from what was seen, never by waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from msgspec import Struct

from bundle.decoding import Event, Request
from bundle.errors import VoisinError
from bundle.language import Language
from bundle.stepper import Prompt
from bundle.translator import Translator
from bundle.vectors import Vectors
from service.admission import Admission
from service.errors import Problem
from service.lane import Pulse
from service.registry import Registry
from service.ticket import Ticket
from service.workers import Workers

logger = logging.getLogger("voisin")

# How long a process that cannot mend itself stays "live": time for the load balancer to look elsewhere.
LIVE_GRACE = 10.0


class Reason(Struct, omit_defaults=True):
    """Why not: `code` for programs, `model` where it is about one."""

    code: str
    model: str | None = None


class CanaryJob:
    """The least a decoder can do: one token after nothing."""

    cost = 0

    def __init__(self, model: Language | Translator) -> None:
        special = model.manifest.special
        source = (special.eos or 0,) if isinstance(model, Translator) else ()
        self.requests = [Request(Prompt((special.bos or 0,), source), max_tokens=1)]
        self.done = False

    def feed(self, index: int, event: Event) -> list[Any]:
        self.done = self.done or hasattr(event, "reason")
        return []

    def result(self) -> None:
        return None


class Health:
    """Watches the models with canaries while they idle, and with their own work while they are busy.

    A model is well when a forward pass succeeded lately, stuck when its present step has lasted too long,
    failed when its last step raised.
    """

    def __init__(
        self,
        registry: Registry,
        workers: Workers,
        admission: Admission,
        *,
        canary_seconds: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._models = registry.decoding
        self._vectors = {each.name: each.model for each in registry if isinstance(each.model, Vectors)}
        self._workers = workers
        self._admission = admission
        self._seconds = canary_seconds
        self._clock = clock
        self._canaries: dict[str, Ticket] = {}
        self._looked_up: dict[str, float] = {}
        self._born = clock()
        self.warm_after: float | None = None  # seconds from birth to the first success of every model

    @property
    def started(self) -> bool:
        """Whether every model has answered once."""
        return self.warm_after is not None

    async def watch(self) -> None:
        """Send canaries until cancelled."""
        while True:
            try:
                self.look()
            except Exception:  # whoever watches must not be the first to fall
                logger.exception("a look at the models failed")
            await asyncio.sleep(min(0.02 if not self.started else 1.0, self._seconds / 4))

    def look(self) -> None:
        """Send the canaries that are due, and note whether all models have answered."""
        now = self._clock()
        for name, model in self._models.items():
            lane = self._workers.lanes[name]
            due = lane.forward_at is None or lane.failures or now - lane.forward_at >= self._seconds
            pending = self._canaries.get(name)
            if due and not lane.rows and (pending is None or pending.result.done()):
                self._send(name, model)
        for name, vectors in self._vectors.items():
            if now - self._looked_up.get(name, float("-inf")) >= self._seconds:
                self._look_up(name, vectors, now)
        if self.warm_after is None and not self._unwell(now):
            self.warm_after = now - self._born

    def _send(self, name: str, model: Language | Translator) -> None:
        ticket = Ticket(
            "canary", name, CanaryJob(model), lambda _: b"", deadline=self._clock() + 3 * self._seconds
        )
        self._canaries[name] = ticket
        try:
            self._workers.submit(ticket)
        except Problem:
            ticket.result.cancel()  # reasons() says why

    def _look_up(self, name: str, vectors: Vectors, now: float) -> None:
        word = next((word for word in vectors.tokenizer.words() if word in vectors), None)
        try:
            if word is not None:
                vectors.embed([word])
        except (VoisinError, RuntimeError):
            logger.exception("a look-up failed", extra={"data": {"model": name}})
        else:
            self._looked_up[name] = now

    def reasons(self) -> list[Reason]:
        """Why no request should come here now; none when all is well."""
        now = self._clock()
        found = []
        if self._admission.draining:
            found.append(Reason("draining"))
        if self._workers.died_at is not None:
            found.append(Reason("worker_dead"))
        if not self.started:
            found.append(Reason("starting"))
        return found + self._unwell(now)

    def _unwell(self, now: float) -> list[Reason]:
        found = []
        for name, lane in self._workers.lanes.items():
            code = self._ailment(lane, now)
            if code:
                found.append(Reason(code, name))
        for name in self._vectors:
            if now - self._looked_up.get(name, float("-inf")) > 3 * self._seconds:
                found.append(Reason("model_failed", name))
        return found

    def _ailment(self, lane: Pulse, now: float) -> str | None:
        if lane.failures:
            return "model_failed"
        turn_at = lane.turn_at
        if turn_at is not None and now - turn_at > 2 * self._seconds:
            return "model_stuck"
        if lane.forward_at is None:
            return "model_untried"
        # a canary that is due is on its way: only its absence over several turns means something
        return "model_stale" if now - lane.forward_at > 4 * self._seconds else None

    def is_live(self) -> bool:
        """Whether a restart would be no help. It becomes false some time after readiness does."""
        now = self._clock()
        died = self._workers.died_at
        if died is not None and now - died > LIVE_GRACE:
            return False
        for lane in self._workers.lanes.values():
            if lane.failed_at is not None and now - lane.failed_at > LIVE_GRACE + self._seconds:
                return False
            if lane.turn_at is not None and now - lane.turn_at > LIVE_GRACE + 4 * self._seconds:
                return False
        return True
