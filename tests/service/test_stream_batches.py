"""Pieces that come faster than they are sent travel together, and nothing is lost or turned round."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from bundle.completion import Piece, TokenLogprob
from service import stream as streams
from service.errors import Problem
from service.stream import Stream, merge
from service.ticket import Ticket
from tests.service.scripted import Job


def opened() -> Stream:
    stream = Stream()
    stream.ticket = Ticket("complete", "m", Job(), lambda _: b"", deadline=monotonic() + 30)
    return stream


def test_the_first_piece_comes_at_once_and_then_what_has_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PIECES_EVERY", 0.2)

    async def main() -> list[list[Piece]]:
        stream, found = opened(), []

        async def read() -> None:
            async for pieces in stream.batches():
                found.append(pieces)

        reader = asyncio.create_task(read())
        for number in range(5):
            stream.put([Piece(0, str(number))])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert found == [[Piece(0, "0")]]
        stream.put(None)  # the end does not wait
        await reader
        return found

    assert asyncio.run(main()) == [[Piece(0, "0")], [Piece(0, "1234")]]


def test_what_was_put_before_anybody_read_is_there() -> None:
    async def main() -> list[list[Piece]]:
        stream = opened()
        stream.put([Piece(0, "a"), Piece(1, "b")])
        stream.put([Piece(1, "c")])
        stream.put(None)
        return [pieces async for pieces in stream.batches()]

    assert asyncio.run(main()) == [[Piece(0, "a"), Piece(1, "bc")]]


def test_an_end_without_pieces_ends() -> None:
    async def main() -> list[list[Piece]]:
        stream = opened()
        asyncio.get_running_loop().call_soon(stream.put, None)
        return [pieces async for pieces in stream.batches()]

    assert asyncio.run(main()) == []


def test_each_by_itself_for_those_who_name_tokens() -> None:
    async def main() -> list[Piece]:
        stream = opened()
        stream.put([Piece(0, "a"), Piece(0, "b")])
        stream.put(None)
        return [piece async for piece in stream.pieces()]

    assert asyncio.run(main()) == [Piece(0, "a"), Piece(0, "b")]


def test_a_stream_that_never_ends_is_504() -> None:
    async def main() -> None:
        stream = opened()
        assert stream.ticket is not None
        stream.ticket.deadline = monotonic() - 1.0
        with pytest.raises(Problem) as late:
            _ = [piece async for piece in stream.batches()]
        assert late.value.status == 504

    asyncio.run(main())


def test_merged_pieces_keep_their_tokens() -> None:
    one, two = TokenLogprob(1, -0.5, 0), TokenLogprob(2, -0.25, 1)
    assert merge([Piece(0, "a", (one,)), Piece(0, "b", (two,))]) == [Piece(0, "ab", (one, two))]
