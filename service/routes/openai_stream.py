"""OpenAI's stream: the answers to several prompts, told apart by their index, in one sequence of chunks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from bundle.completion import Piece, TokenLogprob
from service.dialects import openai_error
from service.errors import from_exception
from service.responses import Last
from service.schemas_openai import (
    CompletionsAnswer,
    CompletionsChoice,
    CompletionsUsage,
    Logprobs,
    ToldChoice,
)
from service.stream import Stream
from service.trace import Trace

logger = logging.getLogger("voisin")

Told = Callable[[Sequence[TokenLogprob], int], Logprobs]
DONE = b"data: [DONE]\n\n"


class Relay:
    """Several streams read as one. Call `close` when nobody reads on."""

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._readers: list[asyncio.Task[None]] = []

    def add(self, place: int, stream: Stream) -> None:
        self._streams[place] = stream

    async def pieces(self) -> AsyncIterator[tuple[int, list[Piece], list[ToldChoice] | None]]:
        """What comes, with the place of its stream; the last of a stream is its whole answer.

        Raises:
            Problem: one of the streams came to no end.
        """
        if len(self._streams) == 1:
            [(place, stream)] = self._streams.items()
            answered = False
            async for some in stream.batches():
                answered = stream.answered
                yield place, some, _choices(stream) if answered else None
            if not answered:
                yield place, [], _choices(stream)
            return
        queue: asyncio.Queue[tuple[int, list[Piece], list[ToldChoice] | Exception | None]] = asyncio.Queue()

        async def read(place: int, stream: Stream) -> None:
            try:
                async for some in stream.batches():
                    queue.put_nowait((place, some, None))
                queue.put_nowait((place, [], _choices(stream)))
            except Exception as error:
                queue.put_nowait((place, [], error))

        self._readers = [asyncio.create_task(read(*each)) for each in self._streams.items()]
        running = len(self._readers)
        while running:
            place, some, end = await queue.get()
            if isinstance(end, Exception):
                raise end
            running -= end is not None
            yield place, some, end

    def is_cached(self, place: int) -> bool:
        return self._streams[place].cached is not None

    def close(self) -> None:
        """Stop the work behind every stream. More calls are no-ops."""
        for reader in self._readers:
            reader.cancel()
        for stream in self._streams.values():
            stream.close()


def _choices(stream: Stream) -> list[ToldChoice]:
    return msgspec.json.decode(stream.whole(), type=list[ToldChoice])


_encode = msgspec.json.Encoder().encode
_NO_CHOICES = b'"choices":[]'


def _frame(body: object) -> bytes:
    return b"data: %b\n\n" % _encode(body)


class Chunks:
    """What is sent of the pieces.

    Args:
        heading: a chunk without choices, which every chunk repeats.
        heads: what stands before each prompt's choices (its echo).
        scores: the log-probabilities of the echo; empty where nobody asked.
        copies: how often each generated choice is sent.
        told: from tokens and the characters before them to OpenAI's object; None where nobody asked.
        prompt_tokens: for the usage; None where nobody asked.
    """

    def __init__(
        self,
        heading: CompletionsAnswer,
        *,
        heads: list[str],
        scores: list[Logprobs],
        n: int,
        copies: int,
        told: Told | None,
        prompt_tokens: int | None,
    ) -> None:
        self._heading = heading
        self._heads = heads
        self._scores = scores
        self._n = n
        self._copies = copies
        self._told = told
        self._prompt_tokens = prompt_tokens
        self._completion_tokens = 0
        # encoded once: all that differs from chunk to chunk is the choice
        every = heading if prompt_tokens is None else replace(heading, usage=None)
        before, after = _frame(every).split(_NO_CHOICES, 1)
        self._before, self._after = before + b'"choices":[', b"]" + after

    async def frames(self, relay: Relay, trace: Trace) -> AsyncIterator[bytes]:
        """Chunks, then `[DONE]`, or an `error`, which the clients raise."""
        held = b""  # what comes last goes with the end
        try:
            for frame in self._echoes():
                yield frame
            left = set(range(len(self._heads)))
            async for place, pieces, end in relay.pieces():
                sent = [self._chunk(place, each.choice, each.text, each.logprobs) for each in pieces]
                if end is not None:
                    left.discard(place)
                    sent += self._ends(place, end, relay.is_cached(place))
                held = b"".join(sent)
                if left:
                    yield held
                    held = b""
            for place in sorted(left):  # nothing was to be generated
                held += b"".join(self._ends(place, [ToldChoice("", "length", 0.0)] * self._drawn, False))
            if self._prompt_tokens is not None:
                tokens = self._prompt_tokens, self._completion_tokens
                held += _frame(replace(self._heading, usage=CompletionsUsage(*tokens, sum(tokens))))
            yield Last(held + DONE)
        except Exception as error:
            problem = from_exception(error)
            trace.outcome = problem.outcome or "error"
            if problem.status == 500:
                logger.exception("a stream failed", extra={"data": {"request_id": trace.request_id}})
            yield Last(held + _frame(openai_error(problem)))

    @property
    def _drawn(self) -> int:
        return self._n // self._copies

    def _echoes(self) -> list[bytes]:
        frames = []
        for place, head in enumerate(self._heads):
            scores = self._scores[place] if self._scores else None
            if head:
                for number in range(self._n):
                    frames.append(self._send(place * self._n + number, head, scores))
        return frames

    def _chunk(self, place: int, choice: int, text: str, found: Sequence[TokenLogprob]) -> bytes:
        """One chunk for each copy of a choice."""
        told = None if self._told is None else self._told(found, len(self._heads[place]))
        numbers = range(choice, self._n, self._drawn)
        return b"".join(self._send(place * self._n + number, text, told) for number in numbers)

    def _ends(self, place: int, choices: list[ToldChoice], cached: bool) -> list[bytes]:
        """The reasons; before them, of an answer that was remembered, the text."""
        frames = []
        for number, each in enumerate(choices):
            self._completion_tokens += self._copies * each.tokens
            if cached:
                frames.append(self._chunk(place, number, each.text, each.logprobs))
            for copy in range(number, self._n, self._drawn):
                frames.append(self._send(place * self._n + copy, "", None, each.finish_reason))
        return frames

    def _send(self, index: int, text: str, told: Logprobs | None, reason: Any = None) -> bytes:
        return self._before + _encode(CompletionsChoice(index, text, told, reason)) + self._after
