"""Short ways through the request path end where the long ones do."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.connection import Request

from bundle.completion import Piece
from service.errors import Problem
from service.logs import RequestLog
from service.parsing import _collect, _query_pairs, read_query
from service.routes.similar import Beside
from service.schemas import SimilarQuery
from service.stream import MOST, Pace, Stream
from service.ticket import PIECES_EVERY, Ticket
from tests.service.making import Service
from tests.service.scripted import Job

WORDS = st.sampled_from(
    ["king", "", "New York", "a+b", "%41", "%zz", "caf%C3%A9", "é", "x" * 201, "a=b", "word="]
)
FIELDS = st.sampled_from(
    ["word=b", "topn=3", "topn=0", "topn=", "lang=en", "model=words-en", "restrict_vocab=9",
     "restrict_vocab=0", "", "=", "nonsense=1", "m%6Fdel=words-en", "model"]
)  # fmt: skip


def _outcome(read: Any, raw: bytes) -> object:
    try:
        return read(Request({"type": "http", "query_string": raw}))
    except (Problem, msgspec.ValidationError) as error:
        return type(error), str(error)


def _long(request: Any) -> SimilarQuery:
    return msgspec.convert(_collect(_query_pairs(request), SimilarQuery), SimilarQuery, strict=False)


@given(WORDS, st.lists(FIELDS, max_size=3), st.booleans())
def test_a_plain_query_is_read_as_any(word: str, fields: list[str], first: bool) -> None:
    parts = [f"word={word}", *fields] if first else [*fields, f"word={word}"]
    raw = "&".join(parts).encode()
    assert _outcome(lambda request: read_query(request, SimilarQuery), raw) == _outcome(_long, raw)


@given(st.lists(st.tuples(WORDS, st.lists(FIELDS, max_size=2)), max_size=8))
def test_what_was_learnt_of_a_query_holds_for_every_word(asked: list[tuple[str, list[str]]]) -> None:
    beside = Beside(most=3)
    for word, fields in asked:
        raw = "&".join([f"word={word}", *fields]).encode()
        long = _outcome(_long, raw)
        if (brief := beside.read(raw)) is not None and word:
            assert isinstance(long, SimilarQuery)
            assert brief == (long.word, [], long.topn)
            assert not long.restrict_vocab
        if isinstance(long, SimilarQuery):
            beside.learn(raw, long, [])
    assert len(beside._known) <= 3


def test_the_second_word_is_read_by_what_was_learnt_of_the_first() -> None:
    beside = Beside()
    beside.learn(b"word=king&topn=3", SimilarQuery("king", topn=3), [])
    assert beside.read(b"word=queen&topn=3") == ("queen", [], 3)
    assert beside.read(b"word=queen&topn=4") is None
    assert beside.read(b"word=qu%65en&topn=3") is None


def test_a_flood_of_refusals_leaves_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    now = 5.0
    log = RequestLog(every=True, clock=lambda: now)

    def ended(outcome: str) -> None:
        if log.wants(outcome):
            log.write(429, outcome, {})

    for _ in range(25):
        ended("rejected")
    ended("ok")
    now = 6.0
    ended("rejected")
    ended("rejected")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["outcome"] for line in lines] == ["rejected"] * 10 + ["ok", "rejected", "rejected"]
    assert [line.get("unlogged") for line in lines] == [None] * 11 + [15, None]


def test_a_quiet_log_has_errors_alone() -> None:
    log = RequestLog(every=False)
    assert [log.wants(outcome) for outcome in ("ok", "rejected", "error")] == [False, False, True]


BODIES = [
    ("/complete", {"prompt": "the gran", "lang": "en", "stream": True, "max_tokens": 3}),
    ("/v1/completions", {"model": "chars-en", "prompt": "ab", "temperature": 0, "stream": True,
                         "stream_options": {"include_usage": True}}),
    ("/v1/completions", {"model": "chars-en", "prompt": ["ab", "ba"], "temperature": 0, "stream": True}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_the_end_of_a_stream_comes_with_its_last_text(
    service: Service, path: str, body: dict[str, object]
) -> None:
    service.post(path, body)
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(raw)}\r\nConnection: close\r\n\r\n"
    with service.raw(head.encode() + raw) as connection:
        seen = b""
        while piece := connection.recv(65536):
            seen += piece
    assert b"x-cache: hit" in seen
    chunked = seen.split(b"\r\n\r\n", 1)[1]
    chunks = []
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        chunked = rest[int(size, 16) + 2 :]
    # of an answer that is there already, with a prompt: everything at once, and the end
    prompts = len(body["prompt"]) if isinstance(body["prompt"], list) else 1
    assert len(chunks) == prompts + 1
    assert chunks[-1] == b""
    # how many events hold the text depends on the pace it was first written at; the end is one more
    assert sum(chunk.count(b"\n\n") for chunk in chunks) > prompts
    assert chunks[-2].endswith(b"\n\n")


def test_many_streams_share_one_pace() -> None:
    pace = Pace()
    assert pace.every == PIECES_EVERY

    async def main() -> None:
        stream = Stream(pace=pace)
        stream.ticket = Ticket("complete", "m", Job(), lambda _: b"", deadline=monotonic() + 30)
        stream.put([Piece(0, "a")])
        batches = stream.batches()
        assert await anext(batches) == [Piece(0, "a")]
        assert pace.streams == 1
        await batches.aclose()
        assert pace.streams == 0

    asyncio.run(main())
    pace.streams = MOST
    assert pace.every == 1.0
