"""Server-sent events: the whole answer is the joined stream."""

from __future__ import annotations

import pytest

from tests.service.making import Answered, Service


def joined(answer: Answered) -> list[str]:
    """The texts of the choices, put together from the `token` events, and checked against `done`."""
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.events()
    name, done = events[-1]
    assert name == "done"
    assert {each for each, _ in events[:-1]} <= {"token"}
    texts = [""] * len(done["completions"])
    for _, token in events[:-1]:
        texts[token["choice"]] += token["text"]
    assert texts == [each["text"] for each in done["completions"]]
    return texts


BODIES = [
    {"prompt": "the gran", "lang": "en"},
    {"prompt": "la ", "lang": "fr", "temperature": 1, "seed": 4},
    {"prompt": "the", "lang": "en", "temperature": 1.3, "seed": 9, "n": 4, "max_tokens": 6},
    {"prompt": "the gran", "lang": "en", "n": 3},
    {"prompt": "abc", "model": "chars-en", "max_tokens": 12},
    {"prompt": "abc", "model": "chars-en", "temperature": 1, "seed": 2, "n": 3, "stop": ["a", "gf"]},
    {"prompt": "", "lang": "fr"},
]


@pytest.mark.parametrize("body", BODIES)
def test_the_joined_stream_is_the_whole(service: Service, body: dict[str, object]) -> None:
    whole = service.post("/complete", body, **{"Cache-Control": "no-cache"}).json
    fresh = service.post("/complete", body | {"stream": True}, **{"Cache-Control": "no-cache"})
    assert joined(fresh) == [each["text"] for each in whole["completions"]]
    assert fresh.events()[-1][1] == whole
    replay = service.post("/complete", body | {"stream": True})
    assert replay.cache == "hit"
    assert joined(replay) == joined(fresh)


def test_a_stream_leaves_its_answer_in_the_cache(service: Service) -> None:
    query = {"prompt": "a grande latte", "lang": "en", "max_tokens": 3}
    assert service.get("/complete", **query, stream="true").cache == "miss"
    assert service.get("/complete", **query).cache == "hit"


def test_same_seed_same_text(service: Service) -> None:
    body = {"prompt": "the", "model": "chars-en", "temperature": 1.5, "seed": 7, "stream": True}
    fresh = {"Cache-Control": "no-cache"}
    texts = [joined(service.post("/complete", body, **fresh)) for _ in range(3)]
    assert texts[0] == texts[1] == texts[2]
    assert joined(service.post("/complete", body | {"seed": 8}, **fresh)) != texts[0]


def test_chance_can_be_streamed(service: Service) -> None:
    answer = service.get("/complete", prompt="the", model="chars-en", temperature=1, stream="true")
    joined(answer)
    assert answer.cache == "bypass"


def test_pieces_come_as_they_are_made(service: Service) -> None:
    with service.raw(
        b"GET /complete?prompt=a&model=slow-xx&max_tokens=40&stream=true HTTP/1.1\r\nHost: a\r\n\r\n"
    ) as connection:
        reads = 0
        text = b""
        while b"event: done" not in text:
            text += connection.recv(65536)
            reads += 1
    assert reads > 3  # in 40 steps of some ten milliseconds


def test_what_is_wrong_is_said_before_the_stream(service: Service) -> None:
    answer = service.get("/complete", prompt="a", stream="true", temperature=9)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
