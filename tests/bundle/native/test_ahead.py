"""Greedy rows that go on by themselves answer what they answer step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle import decoding
from bundle.decoding import Decoder, Event, Request, run
from bundle.stepper import Prompt, Stepper
from tests.bundle.native.small import EOS, PAD, VOCAB, opened, prompts, stepper

EVEN = np.arange(VOCAB) % 2 == 0


@pytest.fixture(scope="module")
def of(any_folder: Path) -> Stepper:
    return stepper(any_folder, opened)


def answers(
    of: Stepper, asked: Sequence[Request], banned: Sequence[int], seed: int
) -> dict[Any, list[Event]]:
    """The events of each request, which join a running batch now and then."""
    rng = np.random.default_rng(seed)
    decoder = Decoder(of, eos=EOS, pad=PAD, max_rows=8, banned=banned)
    found: dict[Any, list[Event]] = {place: [] for place in range(len(asked))}
    waiting = list(enumerate(asked))
    while waiting or decoder.active or decoder.waiting:
        if waiting and (rng.random() < 0.3 or not decoder.active):
            place, request = waiting.pop(0)
            decoder.add(request, place)
        for event in decoder.step():
            found[event.tag].append(event)
    return found


def asked(of: Stepper, rng: np.random.Generator, favourites: Sequence[int]) -> list[Request]:
    """Greedy requests with whatever may end or turn them."""
    word = int(rng.choice(favourites))
    wishes: list[dict[str, Any]] = [
        {},
        {"stop": lambda ids: ids[-1] == word},
        {"stop": lambda ids: len(ids) > 5},
        {"allow": lambda ids: EVEN if len(ids) == 7 else None},
        {"allow": lambda ids: EVEN},
        {"closing": lambda ids: EVEN if len(ids) > 9 else None},
    ]
    return [
        Request(prompt, max_tokens=int(rng.integers(1, 40)), **wishes[int(rng.integers(len(wishes)))])
        for prompt in prompts(of, int(rng.integers(1, 6)), seed=int(rng.integers(2**31)))
    ]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), seconds=st.sampled_from([0.0, 1.0]))
def test_ahead_is_step_by_step(of: Stepper, seed: int, seconds: float) -> None:
    rng = np.random.default_rng(seed)
    # what the model likes to say is banned or a stop, so that both happen
    liked = [id for [best] in run(Decoder(of, eos=-1, pad=PAD), _plain(of, 3)) for id in best.ids]
    banned = [int(id) for id in rng.choice(liked, 3)] if rng.random() < 0.5 else []
    requests = asked(of, rng, liked)
    wanted: dict[Any, list[Event]] = {}
    found: dict[Any, list[Event]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_SECONDS", seconds)
        found = answers(of, requests, banned, seed)
        patch.setattr(of, "goes_ahead", False)
        wanted = answers(of, requests, banned, seed)
    assert found == wanted


def _plain(of: Stepper, count: int) -> list[Request]:
    return [Request(prompt, max_tokens=12) for prompt in prompts(of, count)]


def test_several_tokens_come_of_one_step(of: Stepper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_SECONDS", 1.0)
    decoder = Decoder(of, eos=-1, pad=PAD)
    decoder.add(Request(Prompt((1, 5), (6, EOS) if of._encoder is not None else ()), max_tokens=40), "a")
    counts = []
    while decoder.active or decoder.waiting:
        counts.append(len(decoder.step()))
    assert counts == [1, 16, 16, 8]  # the prefill, and then as many as are allowed; the last with the end


def test_who_is_cancelled_half_way_is_gone(of: Stepper) -> None:
    decoder = Decoder(of, eos=-1, pad=PAD)
    source = (6, EOS) if of._encoder is not None else ()
    for tag in "ab":
        decoder.add(Request(Prompt((1, 5), source), max_tokens=60), tag)
    seen = [event.tag for _ in range(2) for event in decoder.step()]
    assert {"a", "b"} <= set(seen)
    (gone,) = decoder.cancel("a")
    left = []
    while decoder.active:
        left += decoder.step()
    assert gone.reason == "cancelled"
    assert {event.tag for event in left} == {"b"}
    [alone] = run(Decoder(of, eos=-1, pad=PAD), [Request(Prompt((1, 5), source), max_tokens=60)])
    assert left[-1] == alone[0]._replace(tag="b")
    assert gone.ids == alone[0].ids[: len(gone.ids)]
