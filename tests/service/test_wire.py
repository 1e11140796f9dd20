"""Messages between processes, in whatever portions they arrive."""

from __future__ import annotations

import pickle
import random

import pytest

from service.wire import Frames, Sender, adopt, framed


class Model:
    def __init__(self) -> None:
        self.tokenizer = Tokenizer()

    @property
    def parts(self) -> dict[str, object]:
        return {"model": self, "tokenizer": self.tokenizer}


class Tokenizer:
    pass


def test_messages_come_out_of_any_portions() -> None:
    messages = [b"x" * size for size in (0, 1, 70_000, 3)]
    stream = b"".join(framed(pickle.dumps(message)) for message in messages)
    chance = random.Random(1)
    for _ in range(50):
        frames, found, at = Frames(), [], 0
        while at < len(stream):
            size = (
                chance.choice((1, 2, 3, 5, 100, 65_536, 200_000)) if at < 50 else chance.randrange(1, 90_000)
            )
            found += list(frames.feed(stream[at : at + size]))
            at += size
        assert found == messages
        assert list(frames.feed(b"")) == []


def test_parts_of_models_go_by_name() -> None:
    here, there = {"one": Model(), "two": Model()}, {"one": Model(), "two": Model()}
    adopt(there)
    message = [here["two"].tokenizer, here["one"], here["two"].tokenizer, "text"]
    [found] = Frames().feed(Sender(here).framed(message))
    assert found[0] is found[2] is there["two"].tokenizer
    assert found[1] is there["one"]
    assert found[3] == "text"


def test_parts_of_no_model_do_not_go() -> None:
    with pytest.raises(pickle.PicklingError, match="a Tokenizer of no model"):
        Sender({"one": Model()}).framed(Tokenizer())
