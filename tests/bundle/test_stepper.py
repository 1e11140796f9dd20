"""Full == stepwise == numpy, whatever form the state takes and whoever shares the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.stepper import Prompt, Stepper, TensorSpec

BOUND = 1e-4  # of logits around ten, where one unit in the last place of a float32 is 1e-6


def _prompts(form: Any) -> list[Prompt]:
    return [
        form.prompt(3, 4, 5, 6, 7, source=(3, 2)),
        form.prompt(),
        form.prompt(8, 9, 3, source=(9, 8, 7, 6, 5, 4, 2)),
        form.prompt(10, 11, source=(4, 4, 2)),
    ]


def _stepwise(form: Any, prompt: Prompt) -> np.ndarray:
    logits, state = form.stepper.prefill([Prompt(prompt.ids[:1], prompt.source)])
    rows = [logits[0]]
    for id in prompt.ids[1:]:
        logits, state = form.stepper.step(state, np.array([id], np.int64))
        rows.append(logits[0])
    return np.array(rows)


def test_full_is_stepwise_is_numpy(form: Any) -> None:
    for prompt in _prompts(form):
        [full] = form.stepper.score([prompt])
        assert full.dtype == np.float32
        np.testing.assert_allclose(full, form.reference(prompt), rtol=1e-5, atol=BOUND)
        np.testing.assert_allclose(_stepwise(form, prompt), full, rtol=1e-5, atol=BOUND)


def test_ragged_batches_are_their_rows(form: Any) -> None:
    prompts = _prompts(form)
    for scored, prompt in zip(form.stepper.score(prompts), prompts, strict=True):
        np.testing.assert_allclose(scored, form.reference(prompt), rtol=1e-5, atol=BOUND)
    logits, state = form.stepper.prefill(prompts)
    assert len(state) == 4
    for row, prompt in zip(logits, prompts, strict=True):
        np.testing.assert_allclose(row, form.reference(prompt)[-1], rtol=1e-5, atol=BOUND)
    following = np.array([5, 6, 7, 8], np.int64)
    logits, state = form.stepper.step(state, following)
    for row, prompt, id in zip(logits, prompts, following, strict=True):
        longer = Prompt((*prompt.ids, int(id)), prompt.source)
        np.testing.assert_allclose(row, form.reference(longer)[-1], rtol=1e-5, atol=BOUND)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_rows_join_leave_and_are_copied(form: Any, data: st.DataObject) -> None:
    """Any sequence of prefill, step, select and join leaves every row as it would be alone."""
    ids = st.integers(3, 11)

    def prompt() -> Prompt:
        return form.prompt(
            *data.draw(st.lists(ids, max_size=4)), source=(*data.draw(st.lists(ids, max_size=6)), 2)
        )

    rows = [prompt() for _ in range(data.draw(st.integers(1, 3)))]
    _, state = form.stepper.prefill(rows)
    for _ in range(data.draw(st.integers(1, 4))):
        act = data.draw(st.sampled_from(["step", "select", "join"]))
        if act == "select":
            kept = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
            rows = [rows[place] for place in kept]
            state = form.stepper.select(state, np.array(kept))
        elif act == "join":
            new = [prompt()]
            state = form.stepper.join([state, form.stepper.prefill(new)[1]])
            rows += new
        taken = [data.draw(ids) for _ in rows]
        rows = [Prompt((*row.ids, id), row.source) for row, id in zip(rows, taken, strict=True)]
        logits, state = form.stepper.step(state, np.array(taken, np.int64))
        assert len(state) == len(rows)
        for row, one in zip(logits, rows, strict=True):
            np.testing.assert_allclose(row, form.reference(one)[-1], rtol=1e-5, atol=BOUND)


def test_selecting_cuts_what_nobody_needs(form: Any) -> None:
    """When the longest row leaves, the past and the source shrink to the longest that stays."""
    _, state = form.stepper.prefill(_prompts(form))
    state = form.stepper.select(state, np.array([3]))
    if form.name == "growing":
        assert state.past["past.0.key"].shape[1] == 3
    if form.name == "translator":
        assert state.memory["memory.states"].shape[1] <= 4


def test_a_prompt_has_to_fit(form: Any) -> None:
    with pytest.raises(ValueError, match="no token"):
        form.stepper.prefill([Prompt((), (3, 2))])
    if form.capacity:
        with pytest.raises(ValueError, match="capacity of 24"):
            form.stepper.prefill([form.prompt(*[3] * form.capacity)])


class Described:
    """A graph that is only its border."""

    def __init__(self, inputs: dict[str, tuple[str | int, ...]], outputs: dict[str, tuple[str | int, ...]]):
        self.inputs = {name: TensorSpec(name, "float32", axes) for name, axes in inputs.items()}
        self.outputs = {name: TensorSpec(name, "float32", axes) for name, axes in outputs.items()}

    def run(self, feeds: Mapping[str, Any], fetches: Sequence[str]) -> list[Any]:
        raise AssertionError("it is only looked at")


IDS: dict[str, tuple[str | int, ...]] = {"ids": ("batch", "time")}
LOGITS: dict[str, tuple[str | int, ...]] = {"logits": ("batch", "time", 12)}


@pytest.mark.parametrize(
    ("inputs", "outputs", "fault"),
    [
        ({}, LOGITS, "lacks the input ids"),
        (IDS, {}, "lacks the output logits"),
        ({**IDS, "past.0.key": ("batch", "past", 4)}, LOGITS, "lacks the output present.0.key"),
        ({**IDS, "mask": ("batch", "time")}, LOGITS, "unknown input mask"),
        ({**IDS, "memory.keys": ("batch", "source", 4)}, LOGITS, "needs from an encoder memory.keys"),
        ({**IDS, "past.h": (1, "batch", 4)}, {**LOGITS, "present.h": (1, "batch", 4)}, "axes of past.h"),
        ({**IDS, "past.h": ("batch", "room")}, {**LOGITS, "present.h": ("batch", "room")}, "axes of past.h"),
    ],
)
def test_a_graph_has_to_keep_the_contract(
    inputs: dict[str, tuple[str | int, ...]], outputs: dict[str, tuple[str | int, ...]], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        Stepper(Described(inputs, outputs), pad=0)


def test_an_encoder_feeds_all_it_makes() -> None:
    encoder = Described({"ids": ("batch", "source")}, {"memory.keys": ("batch", "source", 4)})
    with pytest.raises(ValueError, match=r"memory\.keys"):
        Stepper(Described(IDS, LOGITS), encoder, pad=0)


def test_a_recurrent_graph_that_is_not_told_lengths_is_not_padded() -> None:
    state = ("batch", 4)
    graph = Described({**IDS, "past.h": state}, {**LOGITS, "present.h": state})
    with pytest.raises(ValueError, match="does not take counts"):
        Stepper(graph, pad=0).prefill([Prompt((1,)), Prompt((1, 2))])
