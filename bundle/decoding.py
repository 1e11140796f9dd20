"""The decoder core: a synchronous loop over rows that join and leave between steps.

It knows no text and no thread, and looks at no clock. The service, the checks of export and the evaluation of
training all drive this loop.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.beam import Beam, Hypothesis, Reason
from bundle.groups import Choice, Going, Group, closed_up, ended, wishes_of
from bundle.outlook import Ban, Outlook, Wish, judged
from bundle.request import Event, Finished, Request, Token
from bundle.sampling import choose, philox
from bundle.state import Reach
from bundle.stepper import Best, Scores, State, Stepper

#: Steps that greedy rows may go on by themselves, in one call, and seconds after which none of them is begun:
#: whoever comes meanwhile waits for no longer.
_AHEAD, _SECONDS = 16, 0.0005

__all__ = ["Decoder", "Event", "Finished", "Request", "Token", "run"]


class _Run(NamedTuple):
    """What a run of the model says of the next token of each row."""

    groups: list[Group]
    wishes: list[Wish]
    scores: Scores
    state: State


class _Chosen(NamedTuple):
    """How the groups of a run go on from its state; their rows are those of the state, or `rows` of it."""

    going: list[Going]
    state: State
    rows: NDArray[np.int64] | None


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
        self._waiting: deque[Group] = deque()
        self._groups: list[Group] = []
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
        self._waiting.append(Group(request, tag, self._end, capacity))

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
        events: list[Event] = []
        ahead = self._go_ahead(running, admitted, events)
        chosen = [ahead] if ahead else [self._chosen(*run, events) for run in self._runs(running, admitted)]
        states: list[State] = []
        going: list[Going] = []
        for each in chosen:
            some = closed_up(each.going)
            going += some
            parents = [row for one in some for row in one.parents]
            origin = np.array(parents, np.int64) if each.rows is None else each.rows[parents]
            if parents:
                stay = each.rows is None and parents == list(range(len(each.state)))
                states.append(each.state if stay else self._stepper.select(each.state, origin))
        for _ in admitted:
            self._waiting.popleft()
        self._groups = [each.group for each in going]
        self._state = self._stepper.join(states) if states else None
        self._next = np.array([id for each in going for id in each.ids], np.int64)
        return events

    def _admissible(self) -> list[Group]:
        admitted: list[Group] = []
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

    def _runs(self, running: list[Group], admitted: list[Group]) -> list["_Run"]:
        """A step of those that run, and the prefill of those that begin."""
        found = []
        if self._state is not None:
            wishes = wishes_of(running)
            scores, state = self._stepper.advance(self._state, self._next, logits=self._judges(wishes))
            found.append(_Run(running, wishes, scores, state))
        if admitted:
            wishes = wishes_of(admitted)
            prompts = [group.request.prompt for group in admitted]
            scores, state = self._stepper.begin(prompts, logits=self._judges(wishes))
            found.append(_Run(admitted, wishes, scores, state))
        return found

    def _go_ahead(self, running: list[Group], admitted: list[Group], events: list[Event]) -> "_Chosen | None":
        """Several steps in one call, where every row takes its likeliest token.

        A step counts as long as all rows did go on with those tokens and none of them wishes for more than
        the graph names. Where a stop or a guard has another word, what was computed beyond is dropped.
        """
        groups = running or admitted
        if not self._stepper.goes_ahead or (running and admitted) or not all(each.greedy for each in groups):
            return None
        left = min(group.request.max_tokens - len(group.choices[0].ids) for group in groups)
        wishes = wishes_of(groups)
        if left < 2 or self._judges(wishes):
            return None
        state, ids = self._state, self._next
        if state is None:
            prompts = [group.request.prompt for group in groups]
            if any(len(prompt.ids) > 1 for prompt in prompts):
                return None  # a prompt is read at once
            state = self._stepper.start(prompts)
            ids = np.array([prompt.ids[0] for prompt in prompts], np.int64)
        most = min(left, _AHEAD)
        found, after = self._stepper.ahead(
            state, ids, Reach(self._banned.mask, most, end=self._end, seconds=_SECONDS)
        )
        taken, logprobs = found.ids.tolist(), found.scores.tolist()
        if all(group.steady for group in groups) and np.isfinite(found.scores).all():
            steps = self._take(groups, taken, logprobs, events)
            return _Chosen(_gone_on(groups, taken[steps - 1]), after(steps), None)
        for step, ids in enumerate(taken):
            if -np.inf in logprobs[step] or any(wish.allowed is not None for wish in wishes):
                named = Scores(None, Best(found.best.scores[step], found.best.ids[step]))
                outlook = Outlook(named, None, wishes, banned=self._banned, end=self._end)
                going = self._choose(outlook, groups, events)
                if [id for each in going for id in each.ids] != ids:
                    break
            else:
                self._take(groups, [ids], [logprobs[step]], events)
                going = _gone_on(groups, ids)
                if not all(group.choices for group in groups):
                    break
            if step < len(taken) - 1:
                wishes = wishes_of(groups)
                if self._judges(wishes):
                    break
        return _Chosen(going, after(step + 1), None)

    def _take(
        self, groups: list[Group], taken: list[list[int]], logprobs: list[list[float]], events: list[Event]
    ) -> int:
        """Groups of one row go on with these tokens, step by step, until one of them ends; after how many."""
        for step, ids in enumerate(taken):
            ends = False
            for group, id, logprob in zip(groups, ids, logprobs[step], strict=True):
                if not self._grown(group, group.choices[0], id, logprob, (), 0, events):
                    group.choices = []
                    ends = True
            if ends:
                break
        return step + 1

    def _chosen(
        self, groups: list[Group], wishes: list[Wish], scores: Scores, state: State, events: list[Event]
    ) -> "_Chosen":
        # n choices of a new prompt are one row of the prefill, and become n with the first token.
        rows = None
        if len(wishes) > len(state):
            rows = np.repeat(np.arange(len(state)), [group.rows for group in groups])
        outlook = Outlook(scores, rows, wishes, banned=self._banned, end=self._end)
        return _Chosen(self._choose(outlook, groups, events), state, rows)

    def _choose(self, outlook: Outlook, groups: list[Group], events: list[Event]) -> list[Going]:
        """How each group goes on."""
        chosen: list[Going] = []
        row = 0
        for group in groups:
            taken = group.rows
            each = Going(group, taken, [], [])
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

    def _extend(self, into: Going, first: int, outlook: Outlook, events: list[Event]) -> None:
        group, _, parents, ids = into
        request, tag = group.request, group.tag
        going: list[Choice] = []
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
            left -= 1
            if self._grown(group, choice, id, logprob, outlook.top(row), left, events):
                left += 1
                going.append(choice)
                parents.append(row)
                ids.append(id)
        group.choices = going

    def _grown(
        self,
        group: Group,
        choice: Choice,
        id: int,
        logprob: float,
        top: tuple[tuple[int, float], ...],
        left: int,
        events: list[Event],
    ) -> bool:
        """Whether a choice goes on after one more token; where it does not, `left` of its request do."""
        choice.logprob += logprob
        reason: Reason = "stop"
        if id != self._end:
            choice.ids.append(id)
            events.append(Token(group.tag, choice.number, id, logprob, top))
            over = ended(group.request, self._stepper.capacity, choice.ids)
            if over is None:
                return True
            reason = over
        ids = tuple(choice.ids)
        events.append(Finished(group.tag, choice.number, ids, choice.logprob, reason, left))
        return False


def _gone_on(groups: list[Group], ids: list[int]) -> list[Going]:
    """How groups of one row, some of which have ended, go on with these tokens."""
    return [
        Going(group, 1, [row], [id]) if group.choices else Going(group, 1, [], [])
        for row, (group, id) in enumerate(zip(groups, ids, strict=True))
    ]


def _ranked(group: Group, beam: Beam) -> list[Finished]:
    # Without any, nothing was ever allowed.
    ranked = beam.ranked()[: group.request.n] or [Hypothesis((), 0.0, "stop")]
    return [
        Finished(group.tag, choice, found.ids, found.logprob, found.reason, len(ranked) - choice - 1)
        for choice, found in enumerate(ranked)
    ]


def _cancelled(group: Group) -> list[Finished]:
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
