"""From a question to its answer: cache, single flight, admission, batcher, in this order.

The question is below the dialects: `/complete` and any other route that asks the same share one answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import msgspec
from prometheus_client import Histogram

from service.admission import Admission, Permit
from service.backlog import Size
from service.cache import MemoryStore, cache_key
from service.errors import Problem, deadline_exceeded, unavailable
from service.metrics import Metrics
from service.redis_store import RedisStore
from service.stream import Pace, Stream
from service.ticket import Delivery, Job, Ticket
from service.trace import Trace
from service.workers import Workers, worker_dead

_LONG = 1000  # characters that are read on the event loop, in about ten milliseconds


@dataclass(slots=True)
class Question:
    """What is asked of one model.

    `request` is canonical: every default filled in, so that equal wishes are equal values. `shape` is the
    type of the cached answer, which is what `encode` writes of a job's result.
    """

    task: str
    model: str
    revision: str
    request: object
    shape: type
    encode: Callable[[Any], bytes]
    job: Callable[[], Job]
    cacheable: bool = True
    size: int = 0  # characters to be read, as far as it is known
    _key: str = field(default="", init=False, repr=False, compare=False)

    @property
    def key(self) -> str:
        """Of the cache; made when it is needed, for what is refused at once needs none."""
        if not self._key:
            self._key = cache_key(self.task, self.revision, self.request)
        return self._key


class Flight:
    """An answer on its way, and how many wait for it. The last to leave stops the work."""

    __slots__ = ("key", "ticket", "waiters")

    def __init__(self, ticket: Ticket) -> None:
        self.key = ""
        self.ticket = ticket
        self.waiters = 0


@dataclass
class _Departure:
    """A flight that waits for its permit, and the places of the request that want it."""

    question: Question
    job: Job
    places: list[int] = field(default_factory=list)

    @property
    def size(self) -> Size:
        requests = self.job.requests
        rows = sum(request.rows for request in requests)
        return Size(self.job.cost, len(requests), rows, self.question.model)


class Answers:
    """The one way from a route to a model."""

    def __init__(
        self,
        memory: MemoryStore,
        redis: RedisStore | None,
        admission: Admission,
        workers: Workers,
        metrics: Metrics,
        deadline_seconds: float,
    ) -> None:
        self._memory = memory
        self._redis = redis
        self._admission = admission
        self._workers = workers
        self._metrics = metrics
        self._seconds = deadline_seconds
        self._reader = asyncio.Semaphore(1)
        self._pace = Pace()
        self._flights: dict[str, Flight] = {}
        self._outstanding: set[Ticket] = set()
        self._durations: dict[tuple[str, str], Histogram] = {}  # by task and model: labels cost

    # -- the cache ------------------------------------------------------------------------------------------

    def remembered(self, question: Question) -> bytes | None:
        """The answer, if the memory tier has it."""
        value = self._memory.look_up(question.key)
        self._metrics.cache["memory", "miss" if value is None else "hit"].inc()
        return value

    async def _shared(self, question: Question) -> bytes | None:
        """The answer, if Redis has it; anything there that is not an answer is a miss."""
        if self._redis is None:
            return None
        value = await self._redis.get(question.key)
        if value is None:
            return None
        try:
            msgspec.json.decode(value, type=question.shape)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        self._memory.keep(question.key, value)
        return value

    def _keep(self, question: Question, value: bytes) -> None:
        self._memory.keep(question.key, value)
        if self._redis is not None:
            self._redis.keep(question.key, value)

    # -- answers that need no decoder -----------------------------------------------------------------------

    async def look_up(
        self, question: Question, compute: Callable[[], Any], *, fresh: bool, trace: Trace
    ) -> bytes:
        """An answer computed on the spot, for work that is cheaper than handing it to another thread."""
        if not fresh:
            value = self.remembered(question)
            if value is None and self._redis is not None:
                value = await self._shared(question)
            if value is not None:
                trace.cache = "hit"
                return value
        trace.cache = "miss"
        start = monotonic()
        value = question.encode(compute())
        trace.run = monotonic() - start
        self._keep(question, value)
        return value

    def at_once(self, questions: Sequence[Question], *, fresh: bool, trace: Trace) -> list[bytes] | None:
        """The answers, if the memory tier has all of them: for callers who prepare more when it has not."""
        if fresh or not all(question.cacheable for question in questions):
            return None
        values = [self._memory.look_up(question.key) for question in questions]
        found = [value for value in values if value is not None]
        if len(found) < len(values):
            return None
        self._metrics.cache["memory", "hit"].inc(len(found))
        trace.cache = "hit"
        return found

    def check(self, questions: Sequence[Question], *, fresh: bool) -> None:
        """Refuse at once what will be refused, before anything is prepared for it; not what Redis may know.

        Raises:
            Problem: 429 or 503.
        """
        if self._redis is not None and not fresh:
            return
        new = [question for question in questions if not self._joins(question, fresh)]
        if new:
            self._admission.check(new[0].task, dict.fromkeys(question.model for question in new))

    def _joins(self, question: Question, fresh: bool) -> bool:
        """Whether the question is under way; what must be fresh, or is left to chance, joins no flight."""
        return question.cacheable and not fresh and question.key in self._flights

    # -- answers of decoders --------------------------------------------------------------------------------

    async def get(self, questions: Sequence[Question], *, fresh: bool, trace: Trace) -> list[bytes]:
        """The answers, in order. What is not cached is admitted and decoded together, or refused together.

        Args:
            fresh: compute even what is cached, and replace it.

        Raises:
            Problem: 429, 503, 504; InvalidRequest from the jobs.
        """
        deadline = monotonic() + self._seconds
        values = await self._recall(questions, fresh=fresh)
        missing = [place for place, value in enumerate(values) if value is None]
        cacheable = all(question.cacheable for question in questions)
        trace.cache = "miss" if missing and cacheable else "hit" if cacheable else "bypass"
        if missing:
            some = [questions[place] for place in missing]
            jobs = await self._read(some, deadline, fresh=fresh)
            flights = self._board(some, jobs, deadline, fresh=fresh)
            for place, value in zip(missing, await self._land(flights, deadline, trace), strict=True):
                values[place] = value
        return [value for value in values if value is not None]

    async def _recall(self, questions: Sequence[Question], *, fresh: bool) -> list[bytes | None]:
        values = [None if fresh or not q.cacheable else self.remembered(q) for q in questions]
        if self._redis is not None and not fresh:
            places = [i for i, value in enumerate(values) if value is None and questions[i].cacheable]
            found = await asyncio.gather(*(self._shared(questions[i]) for i in places))
            for place, value in zip(places, found, strict=True):
                values[place] = value
        return values

    async def _read(self, questions: list[Question], deadline: float, *, fresh: bool) -> dict[int, Job]:
        """The jobs of long texts, by place, made beside the event loop; none of short ones.

        To cut and tokenise a text takes a hundredth of what translating it takes, which is much where others
        wait for the loop, and little beside a change of threads where nobody has to wait long. One request at
        a time is read, for threads share one interpreter; who is late, or has left, is read no further.

        Raises:
            Problem: 429 or 503 where it will be refused, 504 where its time ends first.
        """
        if sum(question.size for question in questions) <= _LONG:
            return {}
        new: dict[object, int] = {}
        for place, question in enumerate(questions):
            if not self._joins(question, fresh):
                new.setdefault(question.key if question.cacheable else place, place)
        over = threading.Event()

        def read() -> dict[int, Job]:
            jobs: dict[int, Job] = {}
            for place in new.values():
                if over.is_set():
                    break
                jobs[place] = questions[place].job()
            return jobs

        task = questions[0].task
        try:
            async with asyncio.timeout_at(deadline), self._reader:
                if new:
                    self._admission.check(
                        task, dict.fromkeys(questions[place].model for place in new.values())
                    )
                return await asyncio.to_thread(read)
        except TimeoutError:
            self._metrics.tasks[task].rejected["deadline"].inc()
            raise deadline_exceeded(self._seconds) from None
        finally:
            over.set()

    def _board(
        self, questions: list[Question], jobs: dict[int, Job], deadline: float, *, fresh: bool
    ) -> list[Flight]:
        """A flight for each question: one that is under way, or a new one.

        Nothing here waits, so no two requests can start the same flight, and a refusal is nobody else's.
        """
        flights: dict[int, Flight] = {}
        new: dict[object, _Departure] = {}
        started = [question for question in questions if not self._joins(question, fresh)]
        if started:  # no text is read of a request that will be refused
            self._admission.check(started[0].task, dict.fromkeys(question.model for question in started))
        for place, question in enumerate(questions):
            flight = self._flights[question.key] if self._joins(question, fresh) else None
            if flight is not None:
                flight.ticket.extend(deadline)
                self._metrics.cache_joined.inc()
                flights[place] = flight
                continue
            key = question.key if question.cacheable else place
            if key not in new:
                new[key] = _Departure(question, jobs[place] if place in jobs else question.job())
            new[key].places.append(place)
        departures = list(new.values())
        permits = self._admit(departures)
        for departure, permit in zip(departures, permits, strict=True):
            flight = self._take_off(departure, permit, deadline, share=not fresh)
            flights.update(dict.fromkeys(departure.places, flight))
        boarded = [flights[place] for place in range(len(questions))]
        for flight in boarded:
            flight.waiters += 1
        return boarded

    def _admit(self, departures: list[_Departure]) -> list[Permit]:
        if not departures:
            return []
        sizes = [each.size for each in departures]
        return self._admission.admit(departures[0].question.task, sizes)

    def _take_off(self, departure: _Departure, permit: Permit, deadline: float, *, share: bool) -> Flight:
        question = departure.question
        ticket = Ticket(
            question.task, question.model, departure.job, question.encode, deadline=deadline, permit=permit
        )
        flight = Flight(ticket)
        if question.cacheable and share:
            self._flights[question.key] = flight
            flight.key = question.key
        self._submit(question, ticket, lambda: self._ground(flight))
        return flight

    def _submit(self, question: Question, ticket: Ticket, over: Callable[[], None]) -> None:
        def settled(ticket: Ticket) -> None:
            self._outstanding.discard(ticket)
            over()
            self._measure(ticket)
            if question.cacheable and ticket.answered:
                self._keep(question, ticket.result.result())

        ticket.when_settled(settled)
        self._outstanding.add(ticket)
        try:
            self._workers.submit(ticket)
        except Problem:
            ticket.deliver(Delivery(ticket, [], worker_dead()))

    def _ground(self, flight: Flight) -> None:
        """Nobody may join this flight any more."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _measure(self, ticket: Ticket) -> None:
        series = self._metrics.decoding[ticket.task]
        series.tokens_out.inc(ticket.tokens_out)
        if ticket.first is not None:
            series.first_token.observe(ticket.first - ticket.submitted)
        if ticket.finished is not None and ticket.started is not None:
            duration = self._durations.get((ticket.task, ticket.model))
            if duration is None:
                duration = self._metrics.inference_duration.labels(ticket.task, ticket.model)
                self._durations[ticket.task, ticket.model] = duration
            duration.observe(ticket.finished - ticket.started)

    async def _land(self, flights: list[Flight], deadline: float, trace: Trace) -> list[bytes]:
        try:
            async with asyncio.timeout_at(deadline):
                # shielded: the flight belongs to all who wait for it
                values = [await asyncio.shield(flight.ticket.result) for flight in flights]
        except TimeoutError:
            self._metrics.tasks[flights[0].ticket.task].rejected["deadline"].inc()
            raise deadline_exceeded(self._seconds) from None
        finally:
            for flight in flights:
                flight.waiters -= 1
                if not flight.waiters and not flight.ticket.result.done():
                    self._ground(flight)
                    flight.ticket.leave()
        # of several, the one that was waited for longest: parts of two flights would not add up to one time
        last = max((flight.ticket for flight in flights), key=lambda ticket: ticket.finished or 0.0)
        trace.submitted, trace.queue, trace.run = last.submitted, last.queued, last.ran
        return values

    def give_up(self) -> None:
        """Answer everything that is still on its way with 503: this process has no more time."""
        for ticket in list(self._outstanding):
            ticket.leave()
            problem = unavailable("draining", "this process is shutting down; ask another", close=True)
            ticket.deliver(Delivery(ticket, [], problem))

    async def stream(self, question: Question, *, fresh: bool, trace: Trace) -> Stream:
        """The answer piece by piece. What is cached is replayed; what is complete at the end is cached.

        Raises:
            Problem: 429 or 503, before anything is sent.
        """
        deadline = monotonic() + self._seconds
        [cached] = await self._recall([question], fresh=fresh)
        trace.cache = "hit" if cached is not None else "miss" if question.cacheable else "bypass"
        stream = Stream(cached, self._pace)
        if cached is None:
            self._admission.check(question.task, [question.model])
            departure = _Departure(question, question.job())
            [permit] = self._admit([departure])
            stream.ticket = Ticket(
                question.task, question.model, departure.job, question.encode,
                deadline=deadline, permit=permit, pieces=stream.put,
            )  # fmt: skip
            self._submit(question, stream.ticket, lambda: stream.put(None))
        return stream
