"""State that stays on the device: the same bits as state that comes back, and nothing of it does come back.

The device is the CPU here; what runs is what runs on a GPU, but for the memory that the runtime takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.decoding import Decoder, Request, run
from bundle.load import open_bundle
from bundle.node import OUTPUT, node
from bundle.resident import DeviceRows, Resident
from bundle.session import Place, Session
from bundle.stepper import Prompt, Stepper
from bundle.tensors import HOST
from tests.bundle.forms import EOS, FORMS, PAD, VOCAB, Form, build_form

HERE = Place("cpu", resident=True)


def _stays(form: Form, folder: Path) -> Stepper:
    """The form's stepper once more, with its state on the device."""
    graphs = [Session(folder / name, device=HERE) for name in form.files]
    encoder = graphs[0] if len(graphs) == 2 else None
    return Stepper(graphs[-1], encoder, pad=PAD, capacity=form.capacity)


@pytest.fixture(scope="module", params=FORMS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Form, Stepper]:
    """A form of state, and its stepper with state on the device."""
    folder = tmp_path_factory.mktemp(request.param)
    form = build_form(request.param, folder)
    return form, _stays(form, folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> DeviceRows:
    folder = tmp_path_factory.mktemp("rows")
    build_form("growing", folder)
    found = Session(folder / "model.onnx", device=HERE).rows
    assert isinstance(found, DeviceRows)
    return found


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_same_bits_whatever_rows_do(both: tuple[Form, Stepper], data: st.DataObject) -> None:
    """Any sequence of prefill, step, select and join, beside the stepper whose state comes back."""
    form, stays = both
    steppers = (form.stepper, stays)
    ids = st.integers(3, 11)

    def prompts() -> list[Prompt]:
        return [
            form.prompt(
                *data.draw(st.lists(ids, max_size=4)), source=(*data.draw(st.lists(ids, max_size=6)), 2)
            )
            for _ in range(data.draw(st.integers(1, 3)))
        ]

    new = prompts()
    states = [stepper.prefill(new)[1] for stepper in steppers]
    for _ in range(data.draw(st.integers(1, 4))):
        act = data.draw(st.sampled_from(["step", "select", "join"]))
        count = len(states[0])
        if act == "select":
            kept = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=5)))
            states = [stepper.select(state, kept) for stepper, state in zip(steppers, states, strict=True)]
        elif act == "join":
            new = prompts()
            states = [
                stepper.join([state, stepper.prefill(new)[1]])
                for stepper, state in zip(steppers, states, strict=True)
            ]
        taken = np.array([data.draw(ids) for _ in range(len(states[0]))], np.int64)
        (here, one), (there, other) = (
            stepper.step(state, taken) for stepper, state in zip(steppers, states, strict=True)
        )
        np.testing.assert_array_equal(here, there)
        states = [one, other]
    for spec in form.stepper._layout.past:
        tensor = states[1].past[spec.name]
        assert isinstance(tensor, Resident)
        # what lies beyond the length of a row is never read, and not wiped
        axis = spec.place("past", "capacity")
        for row, length in enumerate(states[0].lengths):
            seen = (row,) if axis is None else (row, *(slice(None),) * (axis - 1), slice(length))
            np.testing.assert_array_equal(
                np.asarray(states[0].past[spec.name])[seen], np.asarray(tensor)[seen]
            )


def _requests(form: Form) -> list[Request]:
    wishes: list[dict[str, Any]] = [
        {"max_tokens": 9},
        {"max_tokens": 4, "beam": 3},
        {"max_tokens": 7, "temperature": 0.8, "seed": 5, "n": 2},
        {"max_tokens": 6, "beam": 2},
    ]
    sources = [(3, 2), (9, 8, 7, 6, 5, 4, 2), (4, 4, 2), (5, 2)]
    starts = [(3, 4, 5, 6), (), (8, 9), (10,)]
    return [
        Request(form.prompt(*start, source=source), **wish)
        for start, source, wish in zip(starts, sources, wishes, strict=True)
    ]


def test_nothing_comes_back_while_rows_join_leave_and_change_places(
    both: tuple[Form, Stepper], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy, sampled and beam requests that do not all fit at once, through the decoder core."""
    form, stays = both

    def returned(self: Resident, dtype: Any = None, copy: bool | None = None) -> Any:
        raise AssertionError("state came back to the host")

    if form.name != "capacity":  # which is made longer on the host; bundles for GPUs have no such graphs
        monkeypatch.setattr(Resident, "__array__", returned)
    here, there = (
        run(Decoder(stepper, eos=EOS, pad=PAD, max_rows=5), _requests(form))
        for stepper in (form.stepper, stays)
    )
    assert here == there


def test_memory_is_made_and_left_on_the_device(tmp_path: Path) -> None:
    form = build_form("translator", tmp_path)
    stays = _stays(form, tmp_path)
    _, state = stays.prefill([form.prompt(source=(3, 2)), form.prompt(source=(4, 5, 2))])
    memory = state.memory["memory.states"]
    assert isinstance(memory, Resident)
    _, state = stays.step(state, np.array([5, 6], np.int64))
    state = stays.select(state, np.array([0, 1]))
    assert state.memory["memory.states"] is memory


@pytest.mark.parametrize("name", ["text-en", "fr-en", "chars-en"])
def test_models_that_ship_answer_the_same(root: Path, name: str) -> None:
    """A Transformer, a translator with its beams and an LSTM; opening compares the golden answers too."""
    folder = root / "models" / name
    answers = []
    for device in (Place("cpu", kernels=False), HERE):
        model: Any = open_bundle(folder, device=device)
        texts = (
            ["Il était une fois un roi.", "Où est la gare ?"] if name == "fr-en" else ["The king ", "It is"]
        )
        jobs = [model.job(text) for text in texts]
        requests = [request for job in jobs for request in job.requests]
        answers.append(run(model.decoder(max_rows=12), requests))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("axis", [None, 1])
def test_rows_are_arranged_as_on_the_host(rows: DeviceRows, axis: int | None) -> None:
    rng = np.random.default_rng(0)
    lengths = [3, 5, 5, 1] if axis else [4, 4, 4, 4]
    parts = [
        rng.normal(size=(count, length, 2)).astype(np.float32)
        for count, length in zip([2, 1, 3, 1], lengths, strict=True)
    ]
    stacked = rows.stack(parts, axis)
    np.testing.assert_array_equal(np.asarray(stacked), HOST.stack(parts, axis))
    order = np.array([6, 0, 0, 3])
    taken = rows.take(stacked, order)
    np.testing.assert_array_equal(np.asarray(taken), HOST.take(stacked, order))
    reordered = rows.reorder({"x": stacked}, order, {"x": (axis, 1)})["x"]
    np.testing.assert_array_equal(np.asarray(reordered), np.asarray(taken))
    np.testing.assert_array_equal(np.asarray(rows.cut(taken, 1, 2)), HOST.cut(taken, 1, 2))
    assert len(taken) == 4
    assert np.asarray(taken, np.float64).dtype == np.float64


def test_a_step_forgets_the_one_before(rows: DeviceRows) -> None:
    """What is made does not keep what it was made of: two hundred steps take the memory of a few."""
    order = np.array([1, 0])
    tensor = rows.take(np.zeros((2, 500_000), np.float32), order)  # 4 MB
    before = psutil.Process().memory_info().rss
    for _ in range(200):
        tensor = rows.take(tensor, order)
    assert psutil.Process().memory_info().rss - before < 100e6


def test_a_node_is_an_onnx_model() -> None:
    model = onnx.load_from_string(
        node("Pad", [("tensor", "float32"), ("pads", "int64"), ("", "float32"), ("axes", "int64")])
    )
    assert [each.op_type for each in model.graph.node] == ["Pad"]
    assert list(model.graph.node[0].input) == ["tensor", "pads", "", "axes"]
    assert [each.name for each in model.graph.input] == ["tensor", "pads", "axes"]
    assert [each.type.tensor_type.elem_type for each in model.graph.input] == [1, 7, 7]
    assert [each.name for each in model.graph.output] == [OUTPUT]
    [attribute] = (
        onnx.load_from_string(node("Gather", [("x" * 300, "float32")], axis=200)).graph.node[0].attribute
    )
    assert (attribute.name, onnx.helper.get_attribute_value(attribute)) == ("axis", 200)


def test_the_vocabulary_is_known_on_either_side(both: tuple[Form, Stepper]) -> None:
    form, stays = both
    assert form.stepper.vocab == stays.vocab == VOCAB
