"""What may come next in each row of a run, and how likely the model finds it.

Where a graph names the best tokens itself and a row wants nothing else, that is all there is to look at.
Rows that sample, or whose tokens are constrained, are judged by all their logits. Which way a row goes
depends on its own request alone, so its answer is the same whatever the other rows of its batch want.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.beam import best_of_each
from bundle.sampling import log_sum_exp
from bundle.stepper import Array, Best, Scores

Mask = NDArray[np.bool_]


class Wish(NamedTuple):
    """What a row asks of its next token, known before the run.

    Attributes:
        most: how many of the likeliest tokens are looked at.
        allowed: the tokens that may follow; None = all.
        closing: tokens that would end the answer here, with eos one outcome of their joint probability.
        adjust: changes the row's logits in place.
        sampled: the token is drawn.
        top: how many of the likeliest tokens are reported as they are, before anything is forbidden.
    """

    most: int = 1
    allowed: Mask | None = None
    closing: Mask | None = None
    adjust: Callable[[Array], None] | None = None
    sampled: bool = False
    top: int = 0

    def needs_logits(self, best: int, banned: int) -> bool:
        """Whether the `best` likeliest tokens, `banned` of which may be forbidden, are not enough."""
        if self.sampled or self.top or self.closing is not None or self.adjust is not None:
            return True
        excluded = 0 if self.allowed is None else int(len(self.allowed) - np.count_nonzero(self.allowed))
        return self.most + banned + excluded > best


def judged(wishes: Sequence[Wish], best: int, banned: int) -> list[int]:
    """The places of those that `Wish.needs_logits`."""
    found: list[int] = []
    last, needs = None, False
    for place, wish in enumerate(wishes):
        if wish is not last:  # the rows of a request mostly share one wish
            last, needs = wish, wish.needs_logits(best, banned)
        if needs:
            found.append(place)
    return found


class Ban:
    """Tokens that are never chosen.

    Attributes:
        ids: int64, sorted.
        mask: bool ``[vocab]``.
        known: the same ids.
    """

    def __init__(self, ids: NDArray[np.int64], vocab: int) -> None:
        self.ids = ids
        self.known = frozenset(ids.tolist())
        self.count = len(ids)
        self.mask: Mask = np.zeros(max(vocab, int(ids.max(initial=-1)) + 1), np.bool_)
        self.mask[ids] = True


class Outlook:
    """The next tokens of the rows of one run.

    Args:
        scores: of the run.
        rows: for each wish the row of ``scores`` that it is about; None = one after the other.
        banned: which ids ``[vocab]`` are never chosen; their probability is not given to the others.
        end: the id that ends an answer.
    """

    def __init__(
        self, scores: Scores, rows: NDArray[np.int64] | None, wishes: Sequence[Wish], *, banned: Ban, end: int
    ) -> None:
        self._banned = banned
        self._end = end
        best = 0 if scores.best is None else scores.best.ids.shape[1]
        full = judged(wishes, best, banned.count)
        self._full = {place: number for number, place in enumerate(full)}
        self._tops: dict[int, tuple[tuple[int, float], ...]] = {}
        self._lists: dict[int, tuple[list[list[int]], list[list[float]]]] = {}
        self._raw: dict[int, Array] = {}  # the logits of adjusted rows as they were
        if full:
            assert scores.logits is not None
            chosen = np.array(full) if rows is None else rows[full]
            self._judge(scores.logits[chosen], [wishes[place] for place in full])
        if len(full) < len(wishes):
            assert scores.best is not None
            named = scores.best
            if rows is not None:
                named = Best(named.scores[rows], named.ids[rows])
            self._sift(named, wishes)

    def best(self, row: int) -> tuple[int, float]:
        """The likeliest token that may follow, and its log-probability; minus infinity where none may."""
        if row not in self._full:
            return self._first[row]
        id = int(self._greedy[self._full[row]])
        return id, self.logprob(row, id)

    def logits(self, row: int) -> Array:
        """Logits ``[vocab]`` of a row that asked for them, minus infinity where a token may not follow."""
        found: Array = self._logits[self._full[row]]
        return found

    def logprob(self, row: int, id: int) -> float:
        """The model's log-probability of a token of a row that asked for logits."""
        place = self._full[row]
        logits = self._raw[place] if place in self._raw else self._logits[place]
        return float(logits[id]) - float(self._normalisers[place])

    def top(self, row: int) -> tuple[tuple[int, float], ...]:
        """The likeliest tokens and their log-probabilities, likeliest first, as many as were asked for."""
        return self._tops.get(self._full[row], ()) if row in self._full else ()

    def candidates(self, first: int, last: int, count: int) -> tuple[list[list[int]], list[list[float]]]:
        """The likeliest ``count`` tokens of rows ``first`` to ``last`` (not included) and their
        log-probabilities, both ``[rows, count]`` or as many as there are tokens.

        Lists: a search looks at a few dozen numbers, for which numpy takes longer.
        """
        if not self._full:
            ids, scores = self._listed(count)
            return ids[first:last], scores[first:last]
        if all(row in self._full for row in range(first, last)):  # as it is for the rows of one request
            places = [self._full[row] for row in range(first, last)]
            logits = self._logits[places[0] : places[-1] + 1]
            best = best_of_each(logits, count)
            logprobs = np.take_along_axis(logits, best, axis=1) - self._normalisers[places, None]
            return best.tolist(), logprobs.tolist()
        found = [self._some(row, count) for row in range(first, last)]
        width = min(len(ids) for ids, _ in found)
        return [ids[:width].tolist() for ids, _ in found], [some[:width].tolist() for _, some in found]

    def _listed(self, count: int) -> tuple[list[list[int]], list[list[float]]]:
        """The likeliest ``count`` tokens of all rows, made once for all requests that look at as many."""
        found = self._lists.get(count)
        if found is None:
            found = self._lists[count] = self._ids[:, :count].tolist(), self._scores[:, :count].tolist()
        return found

    def _some(self, row: int, count: int) -> tuple[NDArray[np.int64], Array]:
        if row not in self._full:
            return self._ids[row, :count], self._scores[row, :count]
        place = self._full[row]
        ids = best_of_each(self._logits[place : place + 1], count)[0]
        return ids, self._logits[place, ids] - self._normalisers[place]

    def _sift(self, best: Best, wishes: Sequence[Wish]) -> None:
        """What the graph named, without what is forbidden."""
        ids, scores = best.ids, best.scores
        if all(wish.most == 1 and wish.allowed is None for wish in wishes):
            first = ids[:, 0].tolist()
            if self._banned.known.isdisjoint(first):  # as nearly always; nobody will ask for more
                self._first = list(zip(first, scores[:, 0].tolist(), strict=True))
                return
        forbidden = self._banned.mask[ids]
        for place, wish in enumerate(wishes):
            if wish.allowed is not None:
                forbidden[place] |= ~wish.allowed[ids[place]]
        if forbidden.any():
            order = np.argsort(forbidden, axis=1, kind="stable")
            ids = np.take_along_axis(ids, order, axis=1)
            scores = np.take_along_axis(np.where(forbidden, -np.inf, scores), order, axis=1)
        self._ids, self._scores = ids, scores
        self._first = list(zip(ids[:, 0].tolist(), scores[:, 0].tolist(), strict=True))

    def _judge(self, logits: Array, wishes: Sequence[Wish]) -> None:
        """All the logits, with minus infinity where a token may not follow."""
        self._normalisers = log_sum_exp(logits)[:, 0]
        for place, wish in enumerate(wishes):
            if wish.top:
                ids = best_of_each(logits[place : place + 1], min(wish.top, logits.shape[1]))[0]
                self._tops[place] = tuple(
                    (int(id), float(logits[place, id] - self._normalisers[place])) for id in ids
                )
        if self._banned.count:
            logits[:, self._banned.ids] = -np.inf
        for place, (row, wish) in enumerate(zip(logits, wishes, strict=True)):
            if wish.adjust is not None:
                self._raw[place] = row.copy()  # what is told of a token is what the model said
                wish.adjust(row)
            if wish.closing is not None:
                self._close(row, wish.closing)
            if wish.allowed is not None:
                np.copyto(row, -np.inf, where=~wish.allowed)
        self._logits = logits
        self._greedy = logits.argmax(axis=1)

    def _close(self, row: Array, closing: Mask) -> None:
        ending = np.append(row[closing], row[self._end])
        highest = ending.max()
        if highest > -np.inf:
            np.copyto(row, -np.inf, where=closing)
            row[self._end] = highest + np.log(np.exp(ending - highest).sum())
