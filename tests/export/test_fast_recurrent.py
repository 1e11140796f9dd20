"""The fast form of a recurrent model: torch's numbers, and the same bytes at any batch and in any stride."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.invariance import differing
from bundle.decoding import Decoder, Finished, Request, Token, run
from bundle.language import CompletionOptions, Language
from bundle.load import open_bundle
from bundle.manifest import read_manifest
from bundle.session import Session
from bundle.stepper import Array, Graph, Prompt, Stepper
from export import ExportError
from export.lower import lower
from export.lower.fast import BEST
from export.lower.fast_recurrent import FOLDED
from export.pack import write_graphs
from export.pipeline import export_run
from training.models import build
from training.models.config import ModelConfig
from training.models.graph import TorchGraph

MakeRun = Callable[..., Path]
EOS, PAD = 2, 0
SIDES = (("fp32", "plain"), ("fp32", "fast"), ("fp16", "fast"), ("int8", "fast"))

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "lstm one-hot": (90, {"architecture": "lstm", "hidden": 64, "layers": 2}),
    # sizes that no vector register divides
    "lstm projected": (
        61,
        {"architecture": "lstm", "hidden": 45, "layers": 3, "embedding": 36, "tied": True},
    ),
    "lstm, many words": (FOLDED + 52, {"architecture": "lstm", "hidden": 48, "embedding": 40}),
    "gru": (90, {"architecture": "gru", "hidden": 64, "layers": 2, "embedding": 40}),
    "rnn tied": (90, {"architecture": "rnn", "hidden": 64, "layers": 2, "embedding": 64, "tied": True}),
}


class Case:
    """A model with random weights, and steppers over its graphs, by precision and form."""

    def __init__(self, name: str, folder: Path) -> None:
        self.vocab, shape = CASES[name]
        torch.manual_seed(3)
        self.model = build("language", ModelConfig(**shape), self.vocab).eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(2.0)  # fresh weights give nearly level logits
        self.graphs: dict[str, Session] = {}
        for precision, form in SIDES:
            place = folder / f"{precision}-{form}"
            place.mkdir()
            write_graphs(place, lower(self.model, precision, form))  # type: ignore[arg-type]
            self.graphs[f"{precision} {form}"] = Session(place / "model.onnx")
        self.torch = Stepper(TorchGraph(self.model), pad=PAD)

    def stepper(self, side: str) -> Stepper:
        return Stepper(self.graphs[side], pad=PAD)

    def prompts(self, count: int, seed: int = 0) -> list[Prompt]:
        rng = np.random.default_rng(seed)
        sizes = [1, 12, *rng.integers(1, 13, count)][:count]
        return [Prompt(tuple(int(id) for id in rng.integers(4, self.vocab, size))) for size in sizes]

    def requests(self, count: int, seed: int = 0) -> list[Request]:
        """Greedy, beams, sampled with seeds, constrained, and such as want to see all the logits."""
        rng = np.random.default_rng(seed)
        even = np.arange(self.vocab) % 2 == 0
        kinds: list[dict[str, Any]] = [
            {},
            {"beam": 4, "n": 2},
            {"temperature": 0.8, "n": 2, "top_k": 20},
            {"beam": 9},  # wider than what the graph names
            {"top_logprobs": 3},
            {"allow": lambda ids: even},
            {"allow": lambda ids: np.arange(self.vocab) != (ids[-1] if ids else 7)},
        ]
        return [
            Request(prompt, max_tokens=int(rng.integers(1, 24)), seed=place, **kinds[place % len(kinds)])
            for place, prompt in enumerate(self.prompts(count, seed))
        ]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("recurrent"))


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("lstm one-hot", tmp_path_factory.mktemp("lstm"))


def decoder(stepper: Stepper, rows: int = 64) -> Decoder:
    return Decoder(stepper, eos=EOS, pad=PAD, max_rows=rows, banned=(0, 1, 3))


def told(answers: Sequence[Sequence[Finished]]) -> list[list[tuple[tuple[int, ...], float]]]:
    """Ids and log-probabilities, to the last bit."""
    return [[(choice.ids, choice.logprob) for choice in choices] for choices in answers]


def test_fast_is_plain_is_torch(case: Case) -> None:
    some = case.prompts(9)
    wanted = case.torch.score(some)
    for side, bound in (("fp32 plain", 2e-5), ("fp32 fast", 2e-5), ("fp16 fast", 0.02)):
        for one, other in zip(case.stepper(side).score(some), wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=bound)
    rounded, exact = np.concatenate(case.stepper("int8 fast").score(some)), np.concatenate(wanted)
    assert np.sqrt(np.mean((rounded - exact) ** 2)) < 0.05 * np.std(exact)


def test_answers_are_the_plain_graphs(case: Case) -> None:
    """Through the best tokens that the graph names or through the logits: the same answers."""
    some = case.requests(14)
    plain = run(decoder(case.stepper("fp32 plain")), some)
    fast = run(decoder(case.stepper("fp32 fast")), some)
    for one, other in zip(plain, fast, strict=True):
        assert [found.ids for found in one] == [found.ids for found in other]
        for a, b in zip(one, other, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-3)


@pytest.mark.parametrize("side", ["fp32 fast", "int8 fast"])
def test_the_graph_names_the_best_of_its_logits(case: Case, side: str) -> None:
    scores, _ = case.stepper(side).begin(case.prompts(5), logits=True)
    assert scores.best is not None
    assert scores.logits is not None
    order = np.argsort(-scores.logits, axis=1, kind="stable")[:, :BEST]
    np.testing.assert_array_equal(scores.best.ids, order)
    normalised = torch.from_numpy(scores.logits).log_softmax(-1).numpy()
    np.testing.assert_allclose(scores.best.scores, np.take_along_axis(normalised, order, axis=1), atol=1e-5)


@pytest.mark.parametrize("side", ["fp32 fast", "int8 fast"])
def test_read_at_once_is_read_step_by_step(case: Case, side: str) -> None:
    """Whole numbers give the same bytes; float32 adds a bias before or after the product."""
    stepper = case.stepper(side)
    some = [prompt for prompt in case.prompts(8) if len(prompt.ids) > 4]
    whole = stepper.score(some)
    for cut in range(1, 5):
        logits, state = stepper.prefill([Prompt(prompt.ids[:cut]) for prompt in some])
        for place in range(cut, 5):
            for row, full in zip(logits, whole, strict=True):
                if side == "int8 fast":
                    np.testing.assert_array_equal(row, full[place - 1])
                else:
                    np.testing.assert_allclose(row, full[place - 1], atol=1e-5)
            logits, state = stepper.step(state, np.array([prompt.ids[place] for prompt in some]))


@pytest.mark.parametrize("side", ["fp32 fast", "int8 fast"])
def test_a_row_is_the_same_bytes_in_any_batch(case: Case, side: str) -> None:
    stepper = case.stepper(side)
    some = case.prompts(12)
    for prompt, together in zip(some, stepper.score(some), strict=True):
        np.testing.assert_array_equal(stepper.score([prompt])[0], together)
    following = np.arange(4, 16)
    first, state = stepper.begin(some, logits=False)
    second, _ = stepper.advance(state, following, logits=False)
    for row, prompt in enumerate(some):
        alone, own = stepper.begin([prompt], logits=False)
        after, _ = stepper.advance(own, following[row : row + 1], logits=False)
        for one, other in ((alone, first), (after, second)):
            assert one.best is not None
            assert other.best is not None
            np.testing.assert_array_equal(one.best.ids[0], other.best.ids[row])
            np.testing.assert_array_equal(one.best.scores[0], other.best.scores[row])


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_answers_are_the_same_bytes_in_any_company(lstm: Case, seed: int) -> None:
    """Requests of every kind that join a running batch as room allows, some of which are cancelled."""
    assert differing(partial(decoder, lstm.stepper("int8 fast")), lstm.requests(10, seed), seed) == 0


class Unbound:
    """A graph that can only be fed anew at each step."""

    def __init__(self, graph: Graph) -> None:
        self.inputs, self.outputs, self._graph = graph.inputs, graph.outputs, graph

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        return self._graph.run(feeds, fetches)


def test_states_that_stay_where_they_are_hold_what_new_ones_would(case: Case) -> None:
    """Two sets of arrays take turns; beams are reordered where they lie."""
    graph = case.graphs["int8 fast"]
    for some in ([Request(case.prompts(1)[0], max_tokens=12, beam=4)], case.requests(9, 5)):
        bound = run(decoder(Stepper(graph, pad=PAD)), some)
        assert told(bound) == told(run(decoder(Stepper(Unbound(graph), pad=PAD)), some))


def test_states_that_stay_where_they_are_go_with_their_batch(lstm: Case) -> None:
    """Not when the collector of cycles comes by."""
    stepper = lstm.stepper("int8 fast")
    _, state = stepper.begin(lstm.prompts(3), logits=False)
    gone = []
    gc.disable()
    try:
        for _ in range(4):
            _, state = stepper.advance(state, np.array([5, 6, 7]), logits=False)
            assert state.bound is not None
            gone.append(weakref.ref(state.bound))
        del state
        assert [left() for left in gone] == [None] * 4
    finally:
        gc.enable()


def test_a_step_that_was_not_wanted_can_be_taken_again(lstm: Case) -> None:
    """Stepping leaves the state that it starts from as it was."""
    stepper = lstm.stepper("int8 fast")
    _, state = stepper.begin(lstm.prompts(3), logits=False)
    _, state = stepper.advance(state, np.array([5, 6, 7]), logits=False)
    before = {name: array.copy() for name, array in state.past.items()}
    one, _ = stepper.advance(state, np.array([7, 8, 9]), logits=False)
    assert one.best is not None
    ids, scores = one.best.ids.copy(), one.best.scores.copy()
    for name, array in before.items():
        np.testing.assert_array_equal(state.past[name], array)
    again, _ = stepper.advance(state, np.array([7, 8, 9]), logits=False)
    assert again.best is not None
    np.testing.assert_array_equal(again.best.ids, ids)
    np.testing.assert_array_equal(again.best.scores, scores)


def test_tokens_name_those_beside_them(lstm: Case) -> None:
    """Who wants to see the likeliest tokens is judged by all the logits, in a batch that is not."""
    plain, asked = lstm.prompts(2)
    crowd = decoder(lstm.stepper("int8 fast"))
    crowd.add(Request(plain, max_tokens=6), "plain")
    crowd.add(Request(asked, max_tokens=6, top_logprobs=4), "asked")
    tokens = [event for _ in range(6) for event in crowd.step() if isinstance(event, Token)]
    assert {len(token.top) for token in tokens if token.tag == "asked"} == {4}
    assert {len(token.top) for token in tokens if token.tag == "plain"} == {0}


@pytest.mark.parametrize(
    ("architecture", "precision"), [("lstm", "int8"), ("gru", "int8"), ("rnn", "fp32"), ("lstm", "fp16")]
)
def test_a_fast_bundle_opens_and_answers(
    make_run: MakeRun, tmp_path: Path, architecture: str, precision: str
) -> None:
    run_folder = make_run("language", architecture)
    report = export_run(run_folder, tmp_path / "fast", precision=precision, form="fast")  # type: ignore[arg-type]
    export_run(run_folder, tmp_path / "plain", precision="fp32")
    manifest = read_manifest(tmp_path / "fast")
    assert (manifest.format, manifest.form) == (3, "fast")
    assert read_manifest(tmp_path / "plain").format == 1
    if precision == "int8":
        parity = report.manifest.parity
        assert parity["fp32_full_vs_torch"].observed <= 1e-4
        assert parity["row_vs_batch"].observed == parity["stepwise_vs_full"].observed == 0.0
    fast, plain = open_bundle(tmp_path / "fast"), open_bundle(tmp_path / "plain")
    assert isinstance(fast, Language)
    assert isinstance(plain, Language)
    for options in (CompletionOptions(), CompletionOptions(temperature=0.7, n=2, seed=3)):
        texts = [choice.text for choice in fast.complete("the sea", options)]
        if precision == "fp32":
            assert texts == [choice.text for choice in plain.complete("the sea", options)]


def test_a_recurrent_translator_has_no_fast_form(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="recurrent translator has no fast form; export it as plain"):
        export_run(make_run("translator", "lstm"), tmp_path / "fast", form="fast")
    assert not (tmp_path / "fast").exists()
