"""The fast form of a Transformer: the plain graphs' answers, at any batch, to the last bit."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.invariance import differing
from bundle.decoding import Decoder, Request, run
from bundle.load import open_bundle
from bundle.manifest import Form, read_manifest
from bundle.session import Session
from bundle.stepper import Prompt, Stepper
from bundle.translator import TranslationOptions, Translator
from export.lower import lower
from export.lower.fast import BEST
from export.pack import write_graphs
from export.pipeline import export_run
from training.models import Model, build
from training.models.config import ModelConfig

MakeRun = Callable[..., Path]
VOCAB = 480
EOS, PAD = 2, 0


@pytest.fixture(scope="module", params=["translator", "language"])
def model(request: pytest.FixtureRequest) -> Model:
    torch.manual_seed(3)
    kind = request.param
    config = ModelConfig(
        architecture="transformer",
        encoder_layers=2 if kind == "translator" else 0,
        decoder_layers=2,
        hidden=64,
        heads=4,
        positions="sinusoidal",
        activation="gelu" if kind == "language" else "relu",
    )
    return build(kind, config, VOCAB).eval()


def stepper(model: Model, folder: Path, precision: str, form: Form) -> Stepper:
    place = folder / f"{precision}-{form}"
    place.mkdir()
    graphs = lower(model, precision, form)  # type: ignore[arg-type]
    write_graphs(place, graphs)
    sessions = {name: Session(place / name) for name in graphs}
    step = sessions.get("decoder.onnx") or sessions["model.onnx"]
    return Stepper(step, sessions.get("encoder.onnx"), pad=PAD)


@pytest.fixture(scope="module")
def steppers(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stepper]:
    folder = tmp_path_factory.mktemp("fast")
    return {
        "plain": stepper(model, folder, "fp32", "plain"),
        "fp32": stepper(model, folder, "fp32", "fast"),
        "int8": stepper(model, folder, "int8", "fast"),
    }


def prompts(model: Model, count: int, seed: int = 0) -> list[Prompt]:
    rng = np.random.default_rng(seed)

    def words(longest: int) -> tuple[int, ...]:
        return tuple(int(id) for id in rng.integers(4, VOCAB, rng.integers(1, longest)))

    translates = hasattr(model, "encoder")
    return [Prompt((1, *words(9)), (*words(40), EOS) if translates else ()) for _ in range(count)]


def requests(model: Model, count: int, seed: int = 0) -> list[Request]:
    """Greedy, beams of several widths, sampled with seeds, constrained: all kinds of rows."""
    rng = np.random.default_rng(seed)
    even = np.arange(VOCAB) % 2 == 0
    kinds: list[dict[str, object]] = [
        {},
        {"beam": 4, "n": 2},
        {"temperature": 0.8, "n": 2},
        {"beam": 3},
        {"beam": 9},  # wider than what the graph names
        {"allow": lambda ids: even},
        {"allow": lambda ids: np.arange(VOCAB) != (ids[-1] if ids else 7)},
    ]
    return [
        Request(prompt, max_tokens=int(rng.integers(1, 40)), seed=place, **kinds[place % len(kinds)])  # type: ignore[arg-type]
        for place, prompt in enumerate(prompts(model, count, seed))
    ]


def decoder(stepper: Stepper, rows: int = 64) -> Decoder:
    return Decoder(stepper, eos=EOS, pad=PAD, max_rows=rows, banned=(0, 1, 3))


def test_the_logits_are_the_plain_graphs(model: Model, steppers: dict[str, Stepper]) -> None:
    some = prompts(model, 9)
    for one, other in zip(steppers["plain"].score(some), steppers["fp32"].score(some), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_answers_are_the_plain_graphs(model: Model, steppers: dict[str, Stepper]) -> None:
    """Through the best tokens that the graph names or through the logits: the same answers."""
    some = requests(model, 21)
    plain, fast = run(decoder(steppers["plain"]), some), run(decoder(steppers["fp32"]), some)
    for one, other in zip(plain, fast, strict=True):
        assert [found.ids for found in one] == [found.ids for found in other]
        for a, b in zip(one, other, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-3)


def test_requests_leave_nothing_for_the_collector_of_cycles(
    model: Model, steppers: dict[str, Stepper]
) -> None:
    """Whose turn comes when it likes, and until then all that a batch has remembered would stay in memory."""

    def serve() -> None:
        serving = decoder(steppers["int8"])
        for tag, each in enumerate(requests(model, 12)):
            serving.add(each, tag)
            serving.step()
        serving.cancel(11)
        while serving.active or serving.waiting:
            serving.step()

    serve()
    gc.collect()
    gc.disable()
    try:
        serve()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_what_the_graph_names_are_the_best_of_its_logits(model: Model, steppers: dict[str, Stepper]) -> None:
    for each in ("fp32", "int8"):
        scores, _ = steppers[each].begin(prompts(model, 5), logits=True)
        assert scores.best is not None
        assert scores.logits is not None
        normalised = torch.from_numpy(scores.logits).log_softmax(-1).numpy()
        order = np.argsort(-scores.logits, axis=1, kind="stable")[:, :BEST]
        np.testing.assert_array_equal(scores.best.ids, order)
        np.testing.assert_allclose(
            scores.best.scores, np.take_along_axis(normalised, order, axis=1), atol=1e-5
        )


def test_it_looks_where_the_plain_graph_looks(model: Model, steppers: dict[str, Stepper]) -> None:
    if not hasattr(model, "encoder"):
        assert not steppers["fp32"].aligns
        return
    some = prompts(model, 6)
    plain, fast = steppers["plain"].align(some), steppers["fp32"].align(some)
    for one, other in zip(plain, fast, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for prompt, together in zip(some, steppers["int8"].align(some), strict=True):
        np.testing.assert_array_equal(steppers["int8"].align([prompt])[0], together)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_logits_are_the_same_bytes_in_any_batch(
    model: Model, steppers: dict[str, Stepper], precision: str
) -> None:
    some = prompts(model, 12)
    together = steppers[precision].score(some)
    for prompt, logits in zip(some, together, strict=True):
        np.testing.assert_array_equal(steppers[precision].score([prompt])[0], logits)


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_answers_are_the_same_bytes_in_any_company(
    model: Model, steppers: dict[str, Stepper], seed: int
) -> None:
    """Requests of every kind that join a running batch as room allows, some of which are cancelled."""
    assert differing(partial(decoder, steppers["int8"]), requests(model, 10, seed), seed) == 0


@pytest.mark.parametrize("kind", ["language", "translator"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_fast_bundle_opens_and_answers(
    make_run: MakeRun, tmp_path: Path, kind: str, precision: str
) -> None:
    run_folder = make_run(kind, "transformer")
    report = export_run(run_folder, tmp_path / "fast", precision=precision, form="fast")  # type: ignore[arg-type]
    export_run(run_folder, tmp_path / "plain", precision="fp32")
    manifest = read_manifest(tmp_path / "fast")
    assert (manifest.format, manifest.form) == (3, "fast")
    assert read_manifest(tmp_path / "plain").format == 1
    assert report.manifest.parity["row_vs_batch"].observed == 0.0 or precision == "fp32"
    fast, plain = open_bundle(tmp_path / "fast"), open_bundle(tmp_path / "plain")
    if precision == "fp32" and isinstance(fast, Translator) and isinstance(plain, Translator):
        for beam in (1, 4):
            options = TranslationOptions(beam=beam)
            assert fast.translate("the sea", options).text == plain.translate("the sea", options).text
