"""One replica under a traffic, event by event (simpy).

What is simulated is what service/ does. The event loop is one server that takes requests in turn: it looks
into the cache, joins an equal request that is on its way, or asks admission, which is the service's own class
on the simulated clock. Admitted jobs wait for their lane; workers step the lanes in turn, and whatever waits
joins between two steps, as far as there are rows (service/lane.py, bundle/decoding.py). One worker is a
thread and shares the interpreter with the event loop: the part of a step that is Python, and everything on
the loop, one at a time, handed over after 2 ms at the latest. Several are processes, each with an interpreter
and lanes of its own (service/processes.py). Steps share the processors; the event loop, which sleeps most of
the time, is given one at once by the operating system, and steps take so much longer. Who is refused comes
back after `Retry-After` and up to half of it more.

What is not: the network, the operating system's own share, garbage collection, Redis, streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from bench.capacity.costs import Costs, Job, Lane
from bench.capacity.popularity import Floats, Lru, characteristic_time, hit_ratio, zipf
from service.admission import Admission, Permit
from service.backlog import Size
from service.errors import Problem
from service.metrics import Metrics

Process = Generator[simpy.Event, Any, Any]
SWITCH = 0.002
"""Seconds after which the interpreter is handed over (`sys.getswitchinterval`)."""

LOOKED_UP = "similar"
"""The task that is answered on the event loop."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One service and its settings, named as VOISIN_ names them."""

    cores: int = 1
    threads: int = 1
    batch_rows: int = 64
    queue_tokens: int = 65536
    queue_texts: int = 1024
    queue_seconds: float = 0.5
    cache_bytes: float = 64 * 2**20
    deadline_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Share:
    """A task's part of the traffic: `distinct` requests, of Zipf popularity with that exponent."""

    weight: float
    distinct: int = 100_000
    exponent: float = 0.8


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Requests a second to a replica, a Poisson process. Who is refused tries `retries` times again."""

    rate: float
    shares: Mapping[str, Share]
    retries: int = 3


@dataclass
class Outcome:
    """What became of the requests that arrived while it was counted; latencies in seconds, by task."""

    seconds: float
    arrived: int = 0
    hits: int = 0
    joined: int = 0
    refusals: int = 0
    """Answers 429; a request may get several."""
    rejected: int = 0
    """Requests whose client gave up after its last 429."""
    late: int = 0
    in_flight: int = 0
    busy: float = 0.0
    """Processor seconds spent."""
    rows: float = 0.0
    """Mean rows of a step."""
    latencies: dict[str, list[float]] = field(default_factory=dict)

    @property
    def served(self) -> int:
        """Requests answered with 200."""
        return sum(map(len, self.latencies.values()))

    def percentile(self, task: str, q: float) -> float:
        """Seconds under which q percent of the answers to a task came; 0 where there was none."""
        found = self.latencies.get(task)
        return float(np.percentile(found, q)) if found else 0.0


class _Ticket:
    __slots__ = ("deadline", "done", "job", "key", "missing", "permit")

    def __init__(self, key: int, job: Job, permit: Permit, deadline: float, done: simpy.Event) -> None:
        self.key, self.job, self.permit, self.deadline, self.done = key, job, permit, deadline, done
        self.missing = len(job.parts)


class _Part:
    """A request in a decoder: how many rows it holds and how many more steps it stays."""

    __slots__ = ("left", "rows", "ticket", "tokens")

    def __init__(self, ticket: _Ticket, tokens: int, rows: int, steps: int) -> None:
        self.ticket, self.tokens, self.rows, self.left = ticket, tokens, rows, steps


class _Lane:
    def __init__(self, costs: Lane) -> None:
        self.costs = costs
        self.inbox: deque[_Ticket] = deque()
        self.waiting: deque[_Part] = deque()
        self.running: list[_Part] = []

    @property
    def has_work(self) -> bool:
        return bool(self.inbox or self.waiting or self.running)


class Simulation:
    """See the module. Keys of all tasks are numbers of one cache: those of a task follow those before it."""

    def __init__(
        self,
        costs: Costs,
        replica: Replica,
        traffic: Traffic,
        *,
        seed: int = 0,
        service: Callable[[np.random.Generator, float], float] | None = None,
    ) -> None:
        """
        Args:
            service: from a mean to a time that the event loop takes; the mean itself where it is None.
        """
        self.env = simpy.Environment()
        self._rng = np.random.default_rng(seed)
        self._costs, self._replica, self._traffic = costs, replica, traffic
        self._service = service
        self._interpreter = simpy.Resource(self.env)
        self._loop = simpy.Resource(self.env)
        self._cores = simpy.Resource(self.env, replica.cores)
        self._admission = Admission(
            tokens=replica.queue_tokens,
            texts=replica.queue_texts,
            seconds=replica.queue_seconds,
            rows=replica.batch_rows,
            metrics=Metrics(),
            clock=lambda: float(self.env.now),
        )
        self._lanes = {task: [_Lane(lane) for lane in lanes] for task, lanes in costs.lanes.items()}
        lanes = sorted(
            (lane for some in self._lanes.values() for lane in some), key=lambda each: each.costs.model
        )
        workers = max(1, min(replica.threads, len(lanes)))
        self._orders = [deque(lanes[first::workers]) for first in range(workers)]
        self._work = self.env.event()
        self._flights: dict[int, _Ticket] = {}
        self._since = 0.0
        self._on_loop_so_far = 0.0
        self._steps, self._stepped = 0, 0
        self.outcome = Outcome(0.0)
        self._prepare()

    def _prepare(self) -> None:
        shares = self._traffic.shares
        total = sum(share.weight for share in shares.values())
        self._tasks, first, parts, sizes = [], 0, [], []
        for task, share in shares.items():
            probabilities = zipf(share.distinct, share.exponent)
            self._tasks.append((task, first, np.cumsum(probabilities)))
            parts.append(probabilities * share.weight / total)
            sizes.append(np.full(share.distinct, float(self._costs.routes[task].bytes)))
            first += share.distinct
        self._weights = np.cumsum([share.weight / total for share in shares.values()])
        self.probabilities: Floats = np.concatenate(parts)
        self.sizes: Floats = np.concatenate(sizes)
        self._cache = Lru(self._replica.cache_bytes)
        self._cache.warm(self.probabilities, self.sizes, self._rng)

    def run(self, seconds: float, *, warm: float = 0.0) -> Outcome:
        """Count what arrives from `warm` to `warm + seconds`."""
        self.env.process(self._arrivals(warm, warm + seconds))
        for order in self._orders:
            self.env.process(self._worker(order))
        self.env.run(until=warm + seconds)
        outcome = self.outcome
        outcome.seconds = seconds
        outcome.in_flight = outcome.arrived - outcome.served - outcome.rejected - outcome.late
        outcome.rows = self._stepped / max(1, self._steps)
        return outcome

    def hit_ratio(self) -> float:
        """Share of the requests that the cache answers once it is warm, by Che's approximation."""
        return hit_ratio(self.probabilities, self.sizes, self._replica.cache_bytes)

    def hit_ratios(self) -> dict[str, float]:
        """The same of each task."""
        time = characteristic_time(self.probabilities, self.sizes, self._replica.cache_bytes)
        hits = self.probabilities * -np.expm1(-self.probabilities * time)
        found = {}
        for task, first, popularity in self._tasks:
            place = slice(first, first + len(popularity))
            found[task] = float(hits[place].sum() / self.probabilities[place].sum())
        return found

    # -- processors -----------------------------------------------------------------------------------------

    def _count(self, seconds: float) -> None:
        if self.env.now >= self._since:
            self.outcome.busy += seconds

    def _step(self, seconds: float, python: float) -> Process:
        """A step on a processor: its Python with the interpreter, if that is shared, then the rest."""
        python = python if len(self._orders) == 1 else 0.0
        with self._cores.request() as core:
            yield core
            left = seconds * python
            while left > 0:
                with self._interpreter.request() as interpreter:
                    yield interpreter
                    yield self.env.timeout(min(left, SWITCH))
                left -= SWITCH
            left = seconds * (1 - python)
            while left > 0:
                before = self._on_loop_so_far
                yield self.env.timeout(left)
                taken = self._on_loop_so_far - before
                left = taken / self._replica.cores if self._cores.count == self._replica.cores else 0.0
        self._count(seconds)

    def _on_loop(self, seconds: float) -> Process:
        """A piece of work in its turn on the event loop."""
        if self._service is not None:
            seconds = self._service(self._rng, seconds)
        with self._loop.request() as turn:
            yield turn
            with self._interpreter.request() as interpreter:
                yield interpreter
                self._on_loop_so_far += seconds
                yield self.env.timeout(seconds)
        self._count(seconds)

    # -- clients --------------------------------------------------------------------------------------------

    def _arrivals(self, since: float, until: float) -> Process:
        self._since = since
        rng, mean = self._rng, 1.0 / self._traffic.rate
        while True:
            gaps = rng.exponential(mean, 4096)
            tasks = np.searchsorted(self._weights, rng.random(4096)).tolist()
            ranks = rng.random(4096)
            for gap, number, rank in zip(gaps.tolist(), tasks, ranks.tolist(), strict=True):
                yield self.env.timeout(gap)
                task, first, popularity = self._tasks[min(number, len(self._tasks) - 1)]
                key = min(int(np.searchsorted(popularity, rank)), len(popularity) - 1)
                self.env.process(self._request(task, first + key, key))

    def _request(self, task: str, key: int, rank: int) -> Process:
        counted, begun = self.env.now >= self._since, float(self.env.now)
        self.outcome.arrived += counted
        end = yield from self._answered(task, key, rank, counted)
        if counted and end == "late":
            self.outcome.late += 1
        elif counted and end == "rejected":
            self.outcome.rejected += 1
        elif counted:
            self.outcome.latencies.setdefault(task, []).append(float(self.env.now) - begun)

    def _answered(self, task: str, key: int, rank: int, counted: bool) -> Process:
        route = self._costs.routes[task]
        for attempt in range(self._traffic.retries + 1):
            if self._cache.has(key):
                self.outcome.hits += counted
                yield from self._on_loop(route.hit)
                return "served"
            if task == LOOKED_UP:
                yield from self._on_loop(route.miss)
                self._cache.keep(key, route.bytes)
                return "served"
            # half of what a miss costs the event loop before the decoder, half of it after: an assumption
            yield from self._on_loop(route.miss / 2)
            ticket = self._flights.get(key)
            if ticket is not None:
                self.outcome.joined += counted
            else:
                try:
                    ticket = self._submit(task, key, rank)
                except Problem as refusal:
                    self.outcome.refusals += counted
                    if attempt < self._traffic.retries:
                        wait = float(refusal.headers["retry-after"])
                        yield self.env.timeout(wait * (1 + self._rng.random() / 2))
                    continue
            if not (yield ticket.done):
                return "late"
            yield from self._on_loop(route.miss / 2)
            return "served"
        return "rejected"

    def _submit(self, task: str, key: int, rank: int) -> _Ticket:
        lanes = self._lanes[task]
        lane = lanes[rank % len(lanes)]
        jobs = lane.costs.jobs
        job = jobs[rank // len(lanes) % len(jobs)]
        size = Size(job.cost, len(job.parts), sum(rows for _, rows, _ in job.parts), lane.costs.model)
        [permit] = self._admission.admit(task, [size])
        deadline = float(self.env.now) + self._replica.deadline_seconds
        ticket = _Ticket(key, job, permit, deadline, self.env.event())
        self._flights[key] = ticket
        lane.inbox.append(ticket)
        if not self._work.triggered:
            self._work.succeed()
        return ticket

    # -- the workers ----------------------------------------------------------------------------------------

    def _worker(self, order: deque[_Lane]) -> Process:
        while True:
            lane = self._next(order)
            if lane is None:
                if self._work.triggered:
                    self._work = self.env.event()
                yield self._work
                continue
            yield from self._turn(lane)

    def _next(self, order: deque[_Lane]) -> _Lane | None:
        for _ in range(len(order)):
            lane = order[0]
            order.rotate(-1)
            if lane.has_work:
                return lane
        return None

    def _turn(self, lane: _Lane) -> Process:
        while lane.inbox:
            ticket = lane.inbox.popleft()
            lane.waiting += [_Part(ticket, *part) for part in ticket.job.parts]
            if not ticket.job.parts:
                self._settle(ticket, True)
        late = {
            part.ticket for part in (*lane.waiting, *lane.running) if self.env.now >= part.ticket.deadline
        }
        if late:
            lane.waiting = deque(part for part in lane.waiting if part.ticket not in late)
            lane.running = [part for part in lane.running if part.ticket not in late]
            for ticket in late:
                self._settle(ticket, False)
        rows = sum(part.rows for part in lane.running)
        begun = self._admissible(lane, rows)
        if not rows and not begun:
            return
        seconds = lane.costs.step(rows, sum(part.rows for part in begun), sum(part.tokens for part in begun))
        self._steps += 1
        self._stepped += rows + sum(part.rows for part in begun)
        yield from self._step(seconds, lane.costs.python)
        going = []
        for part in (*lane.running, *begun):
            part.left -= 1
            if part.left > 0:
                going.append(part)
                continue
            part.ticket.missing -= 1
            if not part.ticket.missing:
                self._settle(part.ticket, True)
        lane.running = going

    def _admissible(self, lane: _Lane, used: int) -> Sequence[_Part]:
        begun: list[_Part] = []
        while lane.waiting and (not used or used + lane.waiting[0].rows <= self._replica.batch_rows):
            begun.append(lane.waiting.popleft())
            used += begun[-1].rows
        return begun

    def _settle(self, ticket: _Ticket, answered: bool) -> None:
        ticket.permit.release(worked=answered)
        self._flights.pop(ticket.key, None)
        if answered:
            self._cache.keep(ticket.key, float(self.sizes[ticket.key]))
        ticket.done.succeed(answered)


def simulate(
    costs: Costs, replica: Replica, traffic: Traffic, *, seconds: float, warm: float = 0.0, seed: int = 0
) -> Outcome:
    """What becomes of a traffic at a replica. The cache is warm from the start."""
    return Simulation(costs, replica, traffic, seed=seed).run(seconds, warm=warm)
