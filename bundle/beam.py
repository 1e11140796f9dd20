"""Beam search over one request: which hypotheses live, which are finished, and how they rank."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.stepper import Array

Reason = Literal["stop", "length", "cancelled"]
_GROUP = 64


def best_of_each(scores: Array, count: int) -> NDArray[np.int64]:
    """Ids ``[rows, min(count, vocab)]`` of the best scores of each row, in falling order.

    Equal scores go to the smaller id, save where more of them tie than there is room for.
    """
    rows, vocab = scores.shape
    count = min(count, vocab)
    if count == vocab:
        ids = np.tile(np.arange(vocab), (rows, 1))
    elif vocab <= 4 * _GROUP * count:
        ids = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    else:
        # Groups of tokens, a stride apart so that one pass finds the best of each at the speed of memory: the
        # best `count` tokens lie in the `count` groups with the best heads, or in what is left over.
        stride = vocab // _GROUP
        heads = scores[:, : stride * _GROUP].reshape(rows, _GROUP, stride).max(axis=1)
        groups = np.argpartition(-heads, count - 1, axis=1)[:, :count]
        members = (groups[:, :, None] + stride * np.arange(_GROUP)).reshape(rows, -1)
        left = np.broadcast_to(np.arange(stride * _GROUP, vocab), (rows, vocab - stride * _GROUP))
        candidates = np.concatenate([members, left], axis=1)
        within = np.take_along_axis(scores, candidates, axis=1)
        places = np.argpartition(-within, count - 1, axis=1)[:, :count]
        ids = np.take_along_axis(candidates, places, axis=1)
    ids = np.sort(ids, axis=1)
    order = np.argsort(-np.take_along_axis(scores, ids, axis=1), axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1)


class Hypothesis(NamedTuple):
    """Ids so far, the sum of their log-probabilities, and why it ended."""

    ids: tuple[int, ...]
    logprob: float
    reason: Reason = "length"
    score: float = 0.0


@dataclass
class Beam:
    """The search of one request.

    A finished hypothesis scores ``logprob / length ** length_penalty``, its end counted as a token (the
    simple form of the normalisation of Wu et al. 2016). The search is over when ``width`` hypotheses have
    finished, or when none can go on.

    With ``outcome`` hypotheses of equal outcome (the same text in other tokens) are one, and their
    probabilities add up. Then a hypothesis lives only as long as it is likelier than the last of ``wanted``
    outcomes: what it comes to could not take its place.

    A hypothesis stays in the row of the one that it extends, where no better one does: what rows remember
    need not be copied merely because hypotheses overtake each other.

    Attributes:
        live: hypotheses that go on, best first.
        rows: where each of them stands, among the rows of the request.
        standing: the same hypotheses in the order of their rows.
    """

    width: int
    length_penalty: float
    ends: Callable[[Sequence[int]], Reason | None]
    end: int
    outcome: Callable[[Sequence[int]], Hashable] | None = None
    wanted: int = 1

    def __post_init__(self) -> None:
        self.live = [Hypothesis((), 0.0)]
        self.rows = [0]
        self.standing = self.live
        self._finished: list[Hypothesis] = []
        self._outcomes: dict[Hashable, Hypothesis] = {}
        self._ended = 0

    def advance(self, ids: Sequence[list[int]], logprobs: Sequence[list[float]]) -> list[int]:
        """Extend the live hypotheses by their candidates.

        Args:
            ids: of each row its candidates, at least ``2 * width`` of them where there are so many.
            logprobs: of the candidates; minus infinity for what may not be chosen.

        Returns:
            For each new row the row that it goes on from. Empty when the search is over.
        """
        rows = self.rows
        parents = self._extend([ids[row] for row in rows], [logprobs[row] for row in rows])
        origins = [rows[parent] for parent in parents]
        self.rows = _seats(origins)
        found, self.standing = origins.copy(), self.live.copy()
        for row, origin, hypothesis in zip(self.rows, origins, self.live, strict=True):
            found[row], self.standing[row] = origin, hypothesis
        return found

    def _extend(self, ids: list[list[int]], logprobs: list[list[float]]) -> list[int]:
        """Candidates in the order of ``live``; for each new live hypothesis the place of its parent."""
        totals: list[float] = []
        for hypothesis, some in zip(self.live, logprobs, strict=True):
            before_it = hypothesis.logprob
            totals += [before_it + each for each in some]
        order = sorted(range(len(totals)), key=totals.__getitem__, reverse=True)[: 2 * self.width]
        columns = len(ids[0])
        before, self.live = self.live, []
        parents: list[int] = []
        for rank, place in enumerate(order):
            total = totals[place]
            if total == -math.inf or len(self.live) == self.width:
                break
            parent, column = divmod(place, columns)
            id = ids[parent][column]
            if id == self.end:
                # further down, the end is no better than what lives on, but still a part of its outcome
                if rank < self.width or self.outcome is not None:
                    self._finish(before[parent].ids, total, "stop", 1)
                continue
            grown = (*before[parent].ids, id)
            reason = self.ends(grown)
            if reason is None:
                self.live.append(Hypothesis(grown, total))
                parents.append(parent)
            elif reason == "length" or rank < self.width:
                self._finish(grown, total, reason, 0)
        if self.outcome is None:
            over = len(self._finished) >= self.width
        else:
            # many outcomes may be wanted where there are few
            over = self._ended >= 4 * self.width
            least = self._least()
            kept = sum(hypothesis.logprob > least for hypothesis in self.live)  # they stand best first
            del self.live[kept:], parents[kept:]
        if over:
            self.live, parents = [], []
        return parents

    def ranked(self) -> list[Hypothesis]:
        """The finished hypotheses, best first; those that were cut come after those that ended.

        An outcome is one of them, with the log-probability of all.
        """
        found = self._finished if self.outcome is None else self._outcomes.values()
        return sorted(found, key=lambda found: (found.reason != "stop", -found.score))

    def _least(self) -> float:
        """The log-probability of the last of the wanted outcomes, minus infinity where there are fewer."""
        if len(self._outcomes) < self.wanted:
            return -math.inf
        return sorted((found.logprob for found in self._outcomes.values()), reverse=True)[self.wanted - 1]

    def _finish(self, ids: tuple[int, ...], logprob: float, reason: Reason, closing: int) -> None:
        found = Hypothesis(ids, logprob, reason, logprob / max(1, len(ids) + closing) ** self.length_penalty)
        if self.outcome is None:
            self._finished.append(found)
            return
        self._ended += 1
        key = self.outcome(ids)
        known = self._outcomes.get(key)
        if known is None:
            self._outcomes[key] = found
            return
        best = known if known.reason == "stop" or reason != "stop" else found
        together = float(np.logaddexp(known.logprob, logprob))
        self._outcomes[key] = best._replace(logprob=together, score=together)


def _seats(origins: Sequence[int]) -> list[int]:
    """A row for each hypothesis: that of its parent, as far as possible, else one that is free."""
    # as mostly: every hypothesis has a child, and each stays
    if len({*origins}) == len(origins) and max(origins, default=0) < len(origins):
        return [*origins]
    free = set(range(len(origins)))
    seats = []
    for origin in origins:
        seats.append(origin if origin in free else -1)
        free.discard(origin)
    left = iter(sorted(free))
    return [next(left) if seat < 0 else seat for seat in seats]
