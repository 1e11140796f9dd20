"""Rows come and go while the others stay where they are, and nobody's answer tells."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.beam import Beam, Hypothesis, _seats
from bundle.completion import CompletionOptions
from bundle.decoding import Decoder, Finished, Token
from bundle.language import Language
from bundle.load import open_bundle
from bundle.request import Request
from bundle.spare import Extent, Spare
from bundle.translator import TranslationOptions, Translator

MODELS = Path(__file__).parents[2] / "models"
SENTENCES = [
    "Où est la gare ?",
    "Il fait très froid ce matin.",
    "bonjour",
    "Je ne sais pas ce que tu veux dire.",
    "Les enfants jouent dans le parc avec leurs amis.",
    "Merci.",
    "Elle a acheté une petite maison rouge près de la mer.",
]
PROMPTS = ["La ville de", "Il", "Je ne veux pas que", "Où est", "Le roi et la reine"]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_who_can_stays_in_the_row_of_its_parent(origins: list[int]) -> None:
    rows = _seats(origins)
    assert sorted(rows) == list(range(len(origins)))
    firsts = {origin: origins.index(origin) for origin in origins}
    for origin, first in firsts.items():
        assert rows[first] == origin or origin >= len(origins)


@given(st.data(), st.integers(1, 4))
@settings(max_examples=60)
def test_a_row_holds_what_its_parents_rows_held(data: st.DataObject, width: int) -> None:
    """Ids copied from row to row as told are the hypotheses that stand there."""
    beam = Beam(width, 1.0, lambda ids: "length" if len(ids) > 8 else None, end=0)
    held: list[tuple[int, ...]] = [()]
    while beam.live:
        candidates = 2 * width
        scores = np.array(
            data.draw(
                st.lists(
                    st.lists(st.floats(-9, 0, width=32), min_size=candidates, max_size=candidates),
                    min_size=len(held),
                    max_size=len(held),
                )
            )
        )
        ids = np.argsort(np.argsort(scores, axis=1), axis=1).astype(np.int64)
        origins = beam.advance(ids, scores)
        assert len(origins) == len(beam.live)
        standing = beam.standing
        held = [
            (*held[origin], hypothesis.ids[-1]) for origin, hypothesis in zip(origins, standing, strict=True)
        ]
        assert held == [hypothesis.ids for hypothesis in standing]
        assert sorted(standing, key=_rank) == sorted(beam.live, key=_rank)


def _rank(each: Hypothesis) -> tuple[float, tuple[int, ...]]:
    return -each.logprob, each.ids


def test_spare_arrays_have_room_and_keep_what_is_not_read() -> None:
    like = {"past": (np.dtype(np.float32), (2, 6, 3)), "cell": (np.dtype(np.float32), (5,))}
    spare = Spare(8, like)
    room = len(spare.arrays["past"])
    assert room >= 10
    extents = {"past": Extent(2, 4), "cell": Extent(None)}
    assert spare.holds(room, extents)
    assert not spare.holds(room + 1, extents)
    assert not spare.holds(1, {"past": Extent(2, 7), "cell": Extent(None)})
    written = {"past": np.ones((3, 2, 6, 3), np.float32), "cell": np.full((3, 5), 2, np.float32)}
    spare.put(4, written, extents)
    first = spare.first(7)
    assert first["past"].shape == (7, 2, 6, 3)
    assert np.shares_memory(first["past"], spare.arrays["past"])
    assert first["past"][4:, :, :4].all()
    assert not first["past"][4:, :, 4:].any()  # beyond what is read nothing was written
    assert not first["past"][:4].any()
    assert (first["cell"][4:] == 2).all()


def _jobs(model: Language | Translator, draw: random.Random, count: int) -> list[Request]:
    found: list[Request] = []
    while len(found) < count:
        if isinstance(model, Translator):
            wishes = TranslationOptions(beam=draw.choice([1, 2, 4]))
            found += model.job(draw.choice(SENTENCES), wishes).requests
        else:
            options = CompletionOptions(
                max_tokens=draw.randrange(1, 14),
                temperature=draw.choice([0.0, 0.0, 1.0]),
                n=draw.randrange(1, 4),
                seed=draw.randrange(9),
            )
            found += model.job(draw.choice(PROMPTS), options).requests
    return found


Arrivals = dict[int, list[tuple[Hashable, Request]]]


def _answered(
    decoder: Decoder, arrivals: Arrivals, cancelled: dict[int, Hashable]
) -> dict[Hashable, list[object]]:
    """Every event of every request, which come at some steps and are cancelled at others."""
    told: dict[Hashable, list[object]] = {}
    step = 0
    while decoder.active or decoder.waiting or step <= max(arrivals):
        for tag, request in arrivals.get(step, ()):
            decoder.add(request, tag)
            told[tag] = []
        if step in cancelled:
            decoder.cancel(cancelled[step])
            told.pop(cancelled[step], None)
        for event in decoder.step():
            if event.tag in told:
                told[event.tag].append(_plain(event))
        step += 1
    return told


def _plain(event: Token | Finished) -> object:
    if isinstance(event, Token):
        return event.choice, event.id, event.logprob
    return event.choice, event.ids, event.logprob, event.reason


@pytest.mark.parametrize("name", ["fr-en", "text-fr", "chars-fr"])
@pytest.mark.parametrize("form", ["fast", "plain"])
def test_alone_or_among_those_that_come_and_go(name: str, form: str) -> None:
    model = open_bundle(MODELS / name, check=False, form=form)  # type: ignore[arg-type]
    assert isinstance(model, Language | Translator)
    for seed in range(2):
        draw = random.Random(seed)
        requests = _jobs(model, draw, 10)
        alone: dict[Hashable, Sequence[object]] = {
            tag: _answered(model.decoder(max_rows=16), {0: [(tag, request)]}, {})[tag]
            for tag, request in enumerate(requests)
        }
        arrivals: Arrivals = {0: []}
        for tag, request in enumerate(requests):
            arrivals.setdefault(draw.randrange(20), []).append((tag, request))
        leaving: dict[int, Hashable] = {draw.randrange(3, 25): draw.randrange(10) for _ in range(2)}
        together = _answered(model.decoder(max_rows=16), arrivals, leaving)
        for one, told in together.items():
            assert told == alone[one], (name, form, seed, one)
        assert len(together) >= 8
