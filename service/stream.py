"""An answer that is sent while it is made.

Whoever reads it gets what has come since the last time, not more often than `PIECES_EVERY`: where steps are
faster than that, one event carries the text of several. Nobody reads faster, and sixteen streams with an
event for every token would cost as much as the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from bundle.completion import Piece
from service.errors import deadline_exceeded
from service.ticket import PIECES_EVERY, Ticket

MOST = 200
"""Events a second of all streams together: many streams wait longer between two of theirs than a few."""


class Pace:
    """How many streams are read just now, and how long each of them may wait between two events."""

    __slots__ = ("streams",)

    def __init__(self) -> None:
        self.streams = 0

    @property
    def every(self) -> float:
        """Seconds."""
        return max(PIECES_EVERY, self.streams / MOST)


class Stream:
    """An answer that is made just now, or the replay of one that is there already.

    Call `close` when nobody reads on: it stops the work.
    """

    def __init__(self, cached: bytes | None = None, pace: Pace | None = None) -> None:
        self.cached = cached
        self._pace = pace or Pace()
        self.ticket: Ticket | None = None
        self._pieces: list[Piece] = []
        self._ended = False
        self._due = 0.0  # when the next event may be sent, by the clock of the loop
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def put(self, pieces: list[Piece] | None) -> None:
        """More of the answer; None after the last."""
        if pieces is None:
            self._ended = True
            self._wake()
            return
        self._pieces += pieces
        self._wake_when_due()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces as the model makes them, each by itself; none when the answer is cached.

        Raises:
            Problem: the answer came to no end, e.g. 504.
        """
        async for some in self._arrivals(list, paced=False):
            for piece in some:
                yield piece

    def batches(self) -> AsyncIterator[list[Piece]]:
        """What has come since the last time, one piece for each choice; none when the answer is cached.

        Raises:
            Problem: the answer came to no end, e.g. 504.
        """
        return self._arrivals(merge, paced=True)

    @property
    def answered(self) -> bool:
        """Whether the whole answer is there, and all its pieces were read."""
        return self._ended and not self._pieces and self.ticket is not None and self.ticket.answered

    async def _arrivals(
        self, told: Callable[[list[Piece]], list[Piece]], *, paced: bool
    ) -> AsyncIterator[list[Piece]]:
        if self.ticket is None:
            return
        loop = asyncio.get_running_loop()
        self._pace.streams += 1
        try:
            # The worker keeps the deadline; the second more is for a worker that is stuck.
            async with asyncio.timeout_at(self.ticket.deadline + 1.0):
                while True:
                    if not self._ended:
                        self._waiter = loop.create_future()
                        if self._pieces:
                            self._wake_when_due()
                        await self._waiter
                    # what fails does so here: after what came before it
                    if self._pieces:
                        some, self._pieces = self._pieces, []
                        if paced:
                            self._due = loop.time() + self._pace.every
                        yield told(some)
                    elif self._ended:
                        return
        except TimeoutError:
            raise deadline_exceeded(self.ticket.allowed) from None
        finally:
            self._pace.streams -= 1
            self._waiter = None
            self._calm()

    def _wake_when_due(self) -> None:
        if self._waiter is None or self._waiter.done() or self._timer is not None:
            return
        loop = self._waiter.get_loop()
        if loop.time() >= self._due:
            self._wake()
        else:
            self._timer = loop.call_at(self._due, self._wake)

    def _wake(self) -> None:
        self._calm()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _calm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def whole(self) -> bytes:
        """The encoded answer, once the pieces are through."""
        if self.cached is not None:
            return self.cached
        assert self.ticket is not None
        return self.ticket.result.result()

    def close(self) -> None:
        if self.ticket is not None and not self.ticket.result.done():
            self.ticket.leave()


def merge(pieces: Sequence[Piece]) -> list[Piece]:
    """One piece for each choice, in the order of their first ones."""
    if len(pieces) == 1:
        return list(pieces)
    found: dict[int, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.choice, []).append(piece)
    return [
        Piece(choice, "".join(each.text for each in some), tuple(t for each in some for t in each.logprobs))
        for choice, some in found.items()
    ]
