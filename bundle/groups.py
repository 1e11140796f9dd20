"""The rows of a request in a decoder, and how they go on from one step to the next."""

from collections import deque
from collections.abc import Hashable, Sequence
from functools import partial
from typing import NamedTuple

from bundle.beam import Beam, Reason
from bundle.outlook import Wish
from bundle.request import Request


class Choice:
    """One row that goes its own way: greedy or sampled."""

    __slots__ = ("ids", "logprob", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.ids: list[int] = []
        self.logprob = 0.0


class Group:
    """The rows of one request, which stand side by side in the state."""

    __slots__ = ("_wish", "beam", "choices", "request", "tag")

    def __init__(self, request: Request, tag: Hashable, end: int, capacity: int) -> None:
        self.request = request
        self.tag = tag
        self.choices = [] if request.beam > 1 else [Choice(number) for number in range(request.n)]
        self.beam: Beam | None = None
        #: what all rows ask of every step, where that does not depend on what they have come to
        self._wish: Wish | None = None
        if request.allow is None and request.closing is None and request.adjust is None:
            self._wish = self._wished(())
        if request.beam > 1:
            self.beam = Beam(
                request.beam,
                request.length_penalty,
                partial(ended, request, capacity),  # not a method of ours: who refers to himself stays longer
                end,
                request.outcome,
                request.n,
            )

    @property
    def steady(self) -> bool:
        """Whether what it wishes for is the same at every step."""
        return self._wish is not None

    @property
    def greedy(self) -> bool:
        """Whether it is one row that takes its likeliest token."""
        return self.beam is None and len(self.choices) == 1 and self.request.temperature == 0.0

    @property
    def rows(self) -> int:
        """Rows that it has."""
        return len(self.choices) if self.beam is None else len(self.beam.live)

    @property
    def reserved(self) -> int:
        """Rows that it may come to have."""
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


class Going(NamedTuple):
    """How a group goes on: the rows that it goes on from, and the token that each takes; none at its end."""

    group: Group
    before: int  # rows that it had
    parents: list[int]
    ids: list[int]


def ended(request: Request, capacity: int, ids: Sequence[int]) -> Reason | None:
    """Why a choice that has come to ``ids`` goes no further, or None where it does."""
    if request.stop is not None and request.stop(ids):
        return "stop"
    if len(ids) >= request.max_tokens or 0 < capacity < len(request.prompt.ids) + len(ids):
        return "length"
    return None


def closed_up(chosen: Sequence[Going]) -> list[Going]:
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


def wishes_of(groups: Sequence[Group]) -> list[Wish]:
    """What every row of some groups asks of its next token."""
    return [wish for group in groups for wish in group.wishes()]
