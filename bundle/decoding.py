"""The decoder core: a synchronous loop over rows that join and leave between steps.

It knows no text, no thread and no clock. The service, the checks of export and the evaluation of training all
drive this loop.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from bundle.beam import Beam, Hypothesis, Reason
from bundle.outlook import Ban, Outlook, Wish, judged
from bundle.request import Event, Finished, Request, Token
from bundle.sampling import choose, philox
from bundle.stepper import Scores, State, Stepper

__all__ = ["Decoder", "Event", "Finished", "Request", "Token", "run"]


class _Choice:
    """One row that goes its own way: greedy or sampled."""

    __slots__ = ("ids", "logprob", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.ids: list[int] = []
        self.logprob = 0.0


class _Group:
    """The rows of one request, which stand side by side in the state."""

    __slots__ = ("_wish", "beam", "choices", "request", "tag")

    def __init__(self, request: Request, tag: Hashable, end: int, capacity: int) -> None:
        self.request = request
        self.tag = tag
        self.choices = [] if request.beam > 1 else [_Choice(number) for number in range(request.n)]
        self.beam: Beam | None = None
        #: what all rows ask of every step, where that does not depend on what they have come to
        self._wish: Wish | None = None
        if request.allow is None and request.closing is None and request.adjust is None:
            self._wish = self._wished(())
        if request.beam > 1:
            self.beam = Beam(
                request.beam,
                request.length_penalty,
                partial(_ends, request, capacity),  # not a method of ours: who refers to himself stays longer
                end,
                request.outcome,
                request.n,
            )

    @property
    def rows(self) -> int:
        return len(self.choices) if self.beam is None else len(self.beam.live)

    @property
    def reserved(self) -> int:
        return len(self.choices) if self.beam is None else self.request.beam

    def wishes(self) -> list[Wish]:
        """What each row asks of its next token."""
        if self._wish is not None:
            return [self._wish] * self.rows
        if self.beam is None:
            return [self._wished(choice.ids) for choice in self.choices]
        return [self._wished(hypothesis.ids) for hypothesis in self.beam.standing]

    def _wished(self, ids: Sequence[int]) -> Wish:
        request = self.request
        allow, closing, adjust = request.allow, request.closing, request.adjust
        return Wish(
            most=1 if request.beam == 1 else 2 * request.beam,
            allowed=None if allow is None else allow(ids),
            closing=None if closing is None else closing(ids),
            adjust=None if adjust is None else partial(adjust, ids),
            sampled=request.temperature > 0.0,
            top=request.top_logprobs,
        )


class _Going(NamedTuple):
    """How a group goes on: the rows that it goes on from, and the token that each takes; none at its end."""

    group: _Group
    before: int  # rows that it had
    parents: list[int]
    ids: list[int]


class Decoder:
    """Rows of many requests through one stepper.

    Args:
        eos: the token that ends a choice; None where the model has none.
        banned: tokens that are never chosen (padding and other specials). Their probability is not given to
            the others: log-probabilities stay the raw model's.
        max_rows: most rows at once. A request is admitted when all its rows fit, in the order of arrival;
            one that is alone always is.
    """

    def __init__(
        self, stepper: Stepper, *, eos: int | None, pad: int, max_rows: int = 64, banned: Iterable[int] = ()
    ) -> None:
        self.max_rows = max_rows
        self._stepper = stepper
        self._end = pad if eos is None else eos
        self._banned = Ban(np.array(sorted({*banned, pad} - {eos}), np.int64), stepper.vocab)
        self._waiting: deque[_Group] = deque()
        self._groups: list[_Group] = []
        self._state: State | None = None
        self._next = np.empty(0, np.int64)

    @property
    def active(self) -> int:
        """Rows that running requests hold."""
        return sum(group.reserved for group in self._groups)

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._waiting)

    def add(self, request: Request, tag: Hashable) -> None:
        """Queue a request; its events will carry ``tag``.

        Raises:
            ValueError: the prompt is empty, does not fit the context, or has an id that is no token.
        """
        ids, capacity, vocab = request.prompt.ids, self._stepper.capacity, self._stepper.vocab
        if not ids or min(ids) < 0 or (vocab and max(ids) >= vocab):
            raise ValueError("the prompt has no token, or one that the vocabulary lacks")
        if capacity and len(ids) > capacity:
            raise ValueError(f"the prompt has {len(ids)} tokens and the context {capacity}")
        self._waiting.append(_Group(request, tag, self._end, capacity))

    def cancel(self, tag: Hashable) -> list[Finished]:
        """Drop a request, waiting or running, and free its rows at once.

        Returns:
            Its unfinished choices, with what they had come to.
        """
        dropped = [group for group in (*self._groups, *self._waiting) if group.tag == tag]
        self._waiting = deque(group for group in self._waiting if group.tag != tag)
        if any(group.tag == tag for group in self._groups):
            kept = np.repeat(
                [group.tag != tag for group in self._groups], [group.rows for group in self._groups]
            )
            self._groups = [group for group in self._groups if group.tag != tag]
            rows = np.flatnonzero(kept)
            assert self._state is not None
            self._state = self._stepper.select(self._state, rows) if len(rows) else None
            self._next = self._next[rows]
        return [finished for group in dropped for finished in _cancelled(group)]

    def step(self) -> list[Event]:
        """Admit what fits, run the model once over every row, and choose the next tokens.

        The prompts admitted are prefilled together in a run of their own. Without rows nothing is run. When
        the model raises, the decoder is as it was before the call.
        """
        running, admitted = self._groups, self._admissible()
        if not running and not admitted:
            return []
        parts: list[tuple[list[_Group], list[Wish], Scores, State]] = []
        if self._state is not None:
            wishes = _wishes(running)
            scores, state = self._stepper.advance(self._state, self._next, logits=self._judges(wishes))
            parts.append((running, wishes, scores, state))
        if admitted:
            wishes = _wishes(admitted)
            prompts = [group.request.prompt for group in admitted]
            scores, state = self._stepper.begin(prompts, logits=self._judges(wishes))
            parts.append((admitted, wishes, scores, state))
        events: list[Event] = []
        states: list[State] = []
        going: list[_Going] = []
        for groups, wishes, scores, state in parts:
            # n choices of a new prompt are one row of the prefill, and become n with the first token.
            rows = None
            if len(wishes) > len(state):
                rows = np.repeat(np.arange(len(state)), [group.rows for group in groups])
            outlook = Outlook(scores, rows, wishes, banned=self._banned, end=self._end)
            some = _closed_up(self._choose(outlook, groups, events))
            going += some
            parents = [row for each in some for row in each.parents]
            origin = np.array(parents, np.int64) if rows is None else rows[parents]
            if parents:
                stay = rows is None and parents == list(range(len(state)))
                states.append(state if stay else self._stepper.select(state, origin))
        for _ in admitted:
            self._waiting.popleft()
        self._groups = [each.group for each in going]
        self._state = self._stepper.join(states) if states else None
        self._next = np.array([id for each in going for id in each.ids], np.int64)
        return events

    def _admissible(self) -> list[_Group]:
        admitted: list[_Group] = []
        used = self.active
        for group in self._waiting:
            if used and used + group.reserved > self.max_rows:
                break
            used += group.reserved
            admitted.append(group)
        return admitted

    def _judges(self, wishes: Sequence[Wish]) -> bool:
        """Whether any row has to be judged by all its logits."""
        return bool(judged(wishes, self._stepper.best, self._banned.count))

    def _choose(self, outlook: Outlook, groups: list[_Group], events: list[Event]) -> list[_Going]:
        """How each group goes on."""
        chosen: list[_Going] = []
        row = 0
        for group in groups:
            taken = group.rows
            each = _Going(group, taken, [], [])
            if group.beam is None:
                self._extend(each, row, outlook, events)
            else:
                some, logprobs = outlook.candidates(row, row + taken, 2 * group.beam.width)
                each.parents.extend(row + place for place in group.beam.advance(some, logprobs))
                each.ids.extend(hypothesis.ids[-1] for hypothesis in group.beam.standing)
                if not each.ids:
                    events += _ranked(group, group.beam)
            chosen.append(each)
            row += taken
        return chosen

    def _extend(self, into: _Going, first: int, outlook: Outlook, events: list[Event]) -> None:
        group, _, parents, ids = into
        request, tag, capacity = group.request, group.tag, self._stepper.capacity
        going: list[_Choice] = []
        left = len(group.choices)
        for row, choice in enumerate(group.choices, first):
            id, logprob = outlook.best(row)
            if logprob == -np.inf:  # nothing is allowed here
                left -= 1
                events.append(Finished(tag, choice.number, tuple(choice.ids), choice.logprob, "stop", left))
                continue
            if request.temperature > 0.0:
                id = choose(
                    outlook.logits(row),
                    temperature=request.temperature,
                    top_k=request.top_k,
                    top_p=request.top_p,
                    uniform=philox(request.seed, choice.number, len(choice.ids)),
                )
                logprob = outlook.logprob(row, id)
            choice.logprob += logprob
            reason: Reason | None = "stop"
            if id != self._end:
                choice.ids.append(id)
                events.append(Token(tag, choice.number, id, logprob, outlook.top(row)))
                reason = _ends(group.request, capacity, choice.ids)
            if reason is None:
                going.append(choice)
                parents.append(row)
                ids.append(id)
            else:
                left -= 1
                events.append(Finished(tag, choice.number, tuple(choice.ids), choice.logprob, reason, left))
        group.choices = going


def _ends(request: Request, capacity: int, ids: Sequence[int]) -> Reason | None:
    """Why a choice that has come to ``ids`` goes no further, or None where it does."""
    if request.stop is not None and request.stop(ids):
        return "stop"
    if len(ids) >= request.max_tokens or 0 < capacity < len(request.prompt.ids) + len(ids):
        return "length"
    return None


def _closed_up(chosen: Sequence[_Going]) -> list[_Going]:
    """Those that go on, where few of their rows move: the last takes the place of one that has ended, if it
    has as many rows. Otherwise all that stand behind would move up, with what they remember."""
    left = deque(chosen)
    found = []
    while left:
        each = left.popleft()
        if each.parents:
            found.append(each)
            continue
        while left and not left[-1].parents:
            left.pop()
        if left and len(left[-1].parents) == each.before:
            found.append(left.pop())
    return found


def _wishes(groups: Sequence[_Group]) -> list[Wish]:
    return [wish for group in groups for wish in group.wishes()]


def _ranked(group: _Group, beam: Beam) -> list[Finished]:
    # Without any, nothing was ever allowed.
    ranked = beam.ranked()[: group.request.n] or [Hypothesis((), 0.0, "stop")]
    return [
        Finished(group.tag, choice, found.ids, found.logprob, found.reason, len(ranked) - choice - 1)
        for choice, found in enumerate(ranked)
    ]


def _cancelled(group: _Group) -> list[Finished]:
    if group.beam is not None:
        best = group.beam.live[0]
        return [Finished(group.tag, 0, best.ids, best.logprob, "cancelled")]
    last = len(group.choices) - 1
    return [
        Finished(group.tag, choice.number, tuple(choice.ids), choice.logprob, "cancelled", last - place)
        for place, choice in enumerate(group.choices)
    ]


def run(decoder: Decoder, requests: Sequence[Request]) -> list[list[Finished]]:
    """Drive ``decoder`` until all of ``requests`` are finished; for each its choices, in order."""
    finished: list[list[Finished]] = [[] for _ in requests]
    tags = {(_RUN, place): place for place in range(len(requests))}
    for (tag, _), request in zip(tags.items(), requests, strict=True):
        decoder.add(request, tag)
    while decoder.active or decoder.waiting:
        for event in decoder.step():
            if isinstance(event, Finished):
                finished[tags[event.tag]].append(event)  # type: ignore[index]
    return [sorted(choices, key=lambda found: found.choice) for choices in finished]


_RUN = object()
