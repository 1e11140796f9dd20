"""The rows of a request in a decoder, and how they go on from one step to the next."""

from collections import deque
from collections.abc import Hashable, Sequence
from functools import partial
from typing import NamedTuple

from bundle.beam import Beam, Hypothesis, Reason
from bundle.outlook import Mask, Wish
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

    __slots__ = ("_plain", "beam", "choices", "request", "steady", "tag")

    def __init__(self, request: Request, tag: Hashable, end: int, capacity: int) -> None:
        self.request = request
        self.tag = tag
        self.choices = [] if request.beam > 1 else [Choice(number) for number in range(request.n)]
        self.beam: Beam | None = None
        #: what a row asks of a step where nothing is forbidden; None where more than that may be asked
        self._plain: Wish | None = None
        if request.closing is None and request.adjust is None:
            self._plain = self._wished((), None)
        #: whether what it wishes for is the same at every step
        self.steady = self._plain is not None and request.allow is None
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
        plain, allow = self._plain, self.request.allow
        if plain is not None and allow is None:
            return [plain] * self.rows
        rows: Sequence[Choice | Hypothesis] = self.choices if self.beam is None else self.beam.standing
        allowed = [None if allow is None else allow(row.ids) for row in rows]
        if plain is None:
            return [self._wished(row.ids, mask) for row, mask in zip(rows, allowed, strict=True)]
        # rows that wish for the same share the object, which whoever looks through them knows
        return [plain if mask is None else plain._replace(allowed=mask) for mask in allowed]

    def _wished(self, ids: Sequence[int], allowed: Mask | None) -> Wish:
        request = self.request
        closing, adjust = request.closing, request.adjust
        return Wish(
            most=1 if request.beam == 1 else 2 * request.beam,
            allowed=allowed,
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
