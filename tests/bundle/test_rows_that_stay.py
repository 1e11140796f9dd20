"""Rows come and go while the others stay where they are, and nobody's answer tells."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.beam import Beam, Hypothesis, _seats
from bundle.completion import CompletionOptions
from bundle.decoding import Decoder, Finished, Token
from bundle.groups import Going, closed_up
from bundle.language import Language
from bundle.load import open_bundle
from bundle.request import Request
from bundle.spare import Extent, Spare
from bundle.state import Layout, State, TensorSpec
from bundle.stepper import Prompt, Stepper
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
        origins = beam.advance(ids.tolist(), scores.tolist())
        assert len(origins) == len(beam.live)
        standing = beam.standing
        held = [
            (*held[origin], hypothesis.ids[-1]) for origin, hypothesis in zip(origins, standing, strict=True)
        ]
        assert held == [hypothesis.ids for hypothesis in standing]
        assert sorted(standing, key=_rank) == sorted(beam.live, key=_rank)


def _rank(each: Hypothesis) -> tuple[float, tuple[int, ...]]:
    return -each.logprob, each.ids


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 6), st.sampled_from([0.0, 1.0]))
@settings(max_examples=80, deadline=None)
def test_beams_that_keep_their_rows_find_what_a_plain_search_finds(
    seed: int, width: int, most: int, penalty: float
) -> None:
    """Scores by the ids so far, given in the order of rows: a row taken for another would be told."""

    def scores(ids: Sequence[int]) -> np.ndarray:
        drawn = np.random.default_rng([seed, len(ids), *ids]).normal(size=7)
        return np.asarray(drawn - np.log(np.exp(drawn).sum()))

    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    ended: list[tuple[bool, float, tuple[int, ...], float]] = []
    while live and len(ended) < width:
        grown = [((*ids, id), total + scores(ids)[id]) for ids, total in live for id in range(7)]
        grown.sort(key=lambda found: -found[1])
        live = []
        for rank, (ids, total) in enumerate(grown[: 2 * width]):
            if len(live) == width:
                break
            if ids[-1] != 0:
                live.append((ids, total))
            elif rank < width:
                ended.append((True, total / len(ids) ** penalty, ids[:-1], total))
        if live and len(live[0][0]) == most:
            ended += [(False, total / most**penalty, ids, total) for ids, total in live]
            live = []
    ended.sort(key=lambda found: (not found[0], -found[1]))

    beam = Beam(width, penalty, lambda ids: "length" if len(ids) == most else None, end=0)
    while beam.live:
        told = np.array([scores(each.ids) for each in beam.standing])
        beam.advance([[*range(7)]] * len(told), told.tolist())
    found = beam.ranked()[:width]  # at the last step it keeps more than are asked of it
    assert [each.ids for each in found] == [ids for _, _, ids, _ in ended[:width]]
    assert [each.logprob for each in found] == pytest.approx([total for _, _, _, total in ended[:width]])


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), max_size=9))
def test_the_last_takes_the_place_of_one_that_ended(groups: list[tuple[int, int]]) -> None:
    chosen: list[Any] = []
    for place, (before, going) in enumerate(groups):
        chosen.append(Going(place, before, [place] * going, [place] * going))  # type: ignore[arg-type]
    found = closed_up(chosen)
    assert sorted(each.group for each in found) == [each.group for each in chosen if each.parents]  # type: ignore[type-var]
    if all(before == going or not going for before, going in groups) and len({b for b, _ in groups}) == 1:
        # of groups alike no more move than there are places to fill, and the others stay where they were
        gaps = sum(not each.parents for each in chosen[: len(found)])
        assert sum(chosen[place] is not each for place, each in enumerate(found)) == gaps


def test_one_of_another_size_takes_nobodys_place() -> None:
    first, ended, third, wide = (
        Going(None, size, [0] * going, [0] * going)  # type: ignore[arg-type]
        for size, going in ((1, 1), (1, 0), (1, 1), (2, 2))
    )
    assert closed_up([first, ended, third, wide]) == [first, third, wide]
    assert closed_up([first, ended, wide, third]) == [first, third, wide]


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


LAYOUT = Layout(
    [TensorSpec("past.0", "float32", ("batch", 2, "capacity", 3))],
    [TensorSpec("memory.0", "float32", ("batch", "source", 3))],
    group=4,
)


def _state(numbers: Sequence[int], *, length: int, source: int, capacity: int = 32) -> State:
    """Rows of which every entry is the row's number."""
    rows = np.array(numbers, np.float32)
    past = np.broadcast_to(rows[:, None, None, None], (len(rows), 2, capacity, 3)).copy()
    memory = np.broadcast_to(rows[:, None, None], (len(rows), LAYOUT.whole_groups(source), 3)).copy()
    lengths, counts = (np.full(len(rows), size, np.int32) for size in (length, source))
    return State(lengths, {"past.0": past}, {"memory.0": memory}, counts, np.array(numbers, np.int64))


def _numbers(state: State) -> list[float]:
    """The number of each row, in all of it that is read."""
    found = []
    for row, (length, count) in enumerate(zip(state.lengths, state.source_counts, strict=True)):  # type: ignore[arg-type]
        seen = (state.past["past.0"][row, :, :length], state.memory["memory.0"][row, :count])  # type: ignore[index]
        [number] = {float(number) for part in seen for number in part.flat}
        found.append(number)
    return found


def test_who_joins_is_written_behind_and_who_leaves_makes_room() -> None:
    state = LAYOUT.join([_state(range(8), length=5, source=6), _state([8], length=3, source=2)])
    assert state.spare is not None
    arrays = state.spare.arrays
    state = LAYOUT.select(state, np.array([0, 8, 2, 3, 4, 5, 6]))  # the last in the place of the second
    assert _numbers(state) == [0, 8, 2, 3, 4, 5, 6]
    state = LAYOUT.join([state, _state([9, 10], length=4, source=7)])
    assert _numbers(state) == [0, 8, 2, 3, 4, 5, 6, 9, 10]
    assert state.spare is not None
    assert state.spare.arrays is arrays
    assert all(np.shares_memory(arrays[name], np.asarray(t)) for name, t in state.past.items())
    # more than there is room for: all are copied once, and there is room again
    state = LAYOUT.join([state, _state(range(11, 21), length=40, source=3, capacity=64)])
    assert _numbers(state) == [0, 8, 2, 3, 4, 5, 6, 9, 10, *range(11, 21)]
    assert state.spare is not None
    assert state.spare.arrays is not arrays
    assert len(state.spare.arrays["past.0"]) > len(state)
    assert state.past["past.0"].shape[2] == 64


def test_arrays_much_wider_than_what_is_read_are_given_up() -> None:
    state = LAYOUT.join([_state([0, 1], length=5, source=4), _state([2], length=5, source=40)])
    assert state.spare is not None
    assert state.memory["memory.0"].shape[1] == 40
    state = LAYOUT.select(state, np.array([1, 0]))
    assert state.spare is None
    assert state.memory["memory.0"].shape[1] == 4
    assert _numbers(state) == [1, 0]
    state = LAYOUT.join([state, _state([3], length=2, source=3)])
    assert state.memory["memory.0"].shape[1] == 4
    assert _numbers(state) == [1, 0, 3]


def test_a_past_made_longer_is_no_longer_read_where_it_was() -> None:
    state = LAYOUT.join([_state([3, 4], length=5, source=4), _state([5], length=32, source=4)])
    longer = LAYOUT.enlarge(state, 33, 0)
    assert longer.past["past.0"].shape[2] == 64
    assert LAYOUT.enlarge(longer, 64, 0) is longer
    grown = np.asarray(longer.past["past.0"])
    grown[:, :, 5] = np.arange(3, 6)[:, None, None]  # a step, and then the long one leaves
    longer.lengths[:] += 1
    state = LAYOUT.select(longer, np.array([1, 0]))
    assert list(state.lengths) == [6, 6]
    assert _numbers(state) == [4, 3]


@pytest.fixture(scope="module", params=["text-en", "fr-en"])
def stepper(request: pytest.FixtureRequest) -> Stepper:
    """The fast form of a shipped model, whose steps are bound to arrays that stay where they are."""
    model = open_bundle(MODELS / request.param, check=False, form="fast")
    assert isinstance(model, Language | Translator)
    return model.stepper


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_grow_beyond_the_room_and_leave_are_what_they_are_alone(
    stepper: Stepper, seed: int
) -> None:
    """Any order of joining, leaving and copying, by in-place steps and by others, to the last bit."""
    draw = random.Random(seed)

    def prompts(count: int) -> list[Prompt]:
        def some(most: int) -> tuple[int, ...]:
            return tuple(draw.randrange(10, 400) for _ in range(draw.randrange(1, most)))

        # as long as what a past has room for at first: it is made longer while rows come and go
        return [Prompt(some(31), some(20)) for _ in range(count)]

    rows: list[tuple[Prompt, tuple[int, ...]]] = []
    state: State | None = None
    for _ in range(14):
        act = draw.choice(["join", "grow", "leave", "turn"])
        if state is None or (act == "join" and len(rows) < 20):
            new = prompts(draw.randrange(1, 4))
            begun = stepper.begin(new, logits=False)[1]
            state = begun if state is None else stepper.join([state, begun])
            rows += [(prompt, ()) for prompt in new]
        else:
            places = [*range(len(rows))]
            if act == "grow" and len(rows) < 8:
                places = [place for place in places for _ in range(draw.randrange(1, 5))]
            elif act == "leave":
                places = draw.sample(places, draw.randrange(1, len(rows) + 1))
            else:
                draw.shuffle(places)
            state = stepper.select(state, np.array(places))
            rows = [rows[place] for place in places]
        taken = [draw.randrange(10, 400) for _ in rows]
        scores, state = stepper.advance(state, np.array(taken), logits=draw.random() < 0.1)
        rows = [(prompt, (*fed, id)) for (prompt, fed), id in zip(rows, taken, strict=True)]
        assert scores.best is not None
        for place in draw.sample(range(len(rows)), min(3, len(rows))):
            prompt, fed = rows[place]
            alone = stepper.begin([prompt], logits=False)[1]
            for id in fed:
                expected, alone = stepper.advance(alone, np.array([id]), logits=False)
            assert expected.best is not None
            np.testing.assert_array_equal(scores.best.scores[place], expected.best.scores[0])
            np.testing.assert_array_equal(scores.best.ids[place], expected.best.ids[0])


@pytest.mark.parametrize("name", ["text-en", "fr-en"])
def test_beams_that_begin_narrow_and_grow_in_company(name: str) -> None:
    """One row each when they join, and four at the next step, for which nobody has left room."""
    model = open_bundle(MODELS / name, check=False, form="fast")
    assert isinstance(model, Language | Translator)
    only = np.zeros(model.tokenizer.size, np.bool_)
    only[50] = True
    bos, eos = model.manifest.special.bos or 0, model.manifest.special.eos or 0

    def prompt(first: int) -> Prompt:
        return Prompt((bos,), (first, 70, eos)) if isinstance(model, Translator) else Prompt((bos, first, 70))

    requests = [Request(prompt(30), max_tokens=20)] + [
        Request(prompt(31 + place), 2 + place % 7, beam=4, n=4, allow=lambda ids: None if ids else only)
        for place in range(10)
    ]
    arrivals: Arrivals = {0: [(0, requests[0])], 2: [*enumerate(requests)][1:]}
    together = _answered(model.decoder(max_rows=64), arrivals, {5: 3})
    assert len(together) == 10
    for tag, told in together.items():
        assert told == _answered(model.decoder(max_rows=64), {0: [(tag, requests[int(str(tag))])]}, {})[tag]


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
