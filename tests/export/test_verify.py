"""Verification passes what is right and stops what is wrong, whatever is wrong with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import export.verify
from bundle.manifest import Check, Limits
from bundle.session import Session
from bundle.stepper import Array, Prompt
from bundle.tokenizer import Tokenizer
from export import ExportError, pack
from export.defaults import limits
from export.lower import lower
from export.quantize import Precision, round_weights
from export.verify import BOUNDS, Subject, decode, difference, require, text_checks, verify_steps
from training.checkpoint import load_model

ARCHITECTURES = ["rnn", "gru", "lstm", "transformer"]
CHECKS = {
    "full_vs_torch",
    "stepwise_vs_full",
    "training_vs_step",
    "row_vs_batch",
    "rounding",
    "rounded_choices",
    "greedy_text_vs_torch",
    "greedy_text_alone_vs_batch",
    "beam_text_vs_torch",
    "beam_text_alone_vs_batch",
}

VOCAB = 33


def subject(run: Path, folder: Path, precision: Precision = "fp32") -> Subject:
    model, recipe = load_model(run)
    stored = copy.deepcopy(model)
    round_weights(stored, precision)
    graphs = lower(model, precision)
    pack.write_graphs(folder, graphs)
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    assert tokenizer.size == VOCAB
    return Subject(
        kind=recipe.kind,
        trained=model,
        rounded=stored,
        graphs={name: folder / name for name in graphs},
        precision=precision,
        special=tokenizer.special,
        limits=limits(recipe),
    )


@pytest.mark.parametrize("kind", ["language", "translator"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_passes_in_fp32(
    make_run: Callable[..., Path], tmp_path: Path, kind: str, architecture: str
) -> None:
    checks = verify_steps(subject(make_run(kind, architecture), tmp_path), [], vocab=VOCAB)
    require(checks)
    assert set(checks) == CHECKS
    assert checks["rounding"].observed == 0.0
    assert 0.0 < checks["full_vs_torch"].observed < 1e-4


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(("kind", "architecture"), [("language", "lstm"), ("translator", "transformer")])
def test_rounded_weights_pass_and_say_what_they_cost(
    make_run: Callable[..., Path], tmp_path: Path, kind: str, architecture: str, precision: Precision
) -> None:
    checks = verify_steps(subject(make_run(kind, architecture), tmp_path, precision), [], vocab=VOCAB)
    require(checks)
    assert 0.0 < checks["rounding"].observed < BOUNDS[precision].rounding
    assert checks["row_vs_batch"].observed < 1e-4
    assert checks["greedy_text_alone_vs_batch"].observed == 0.0


class Faulty(Session):
    """A runtime with a fault of its own: what it adds to the logits of a run."""

    fault: Callable[[Array], Array] = staticmethod(lambda ids: np.zeros(1, np.float32))

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        outputs = super().run(feeds, fetches)
        if "logits" in fetches:
            at = list(fetches).index("logits")
            outputs[at] = outputs[at] + type(self).fault(feeds["ids"])
        return outputs


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Array], Array]], None]:
    """`faulty(fault)`: the runtime adds `fault(ids)` to its logits from now on."""

    def make(fault: Callable[[Array], Array]) -> None:
        monkeypatch.setattr(Faulty, "fault", staticmethod(fault))
        monkeypatch.setattr(export.verify, "Session", Faulty)

    return make


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        pytest.param(lambda ids: np.float32(1e-3 * len(ids)), "row_vs_batch", id="batch"),
        pytest.param(lambda ids: np.float32(1e-3 * ids.shape[1]), "stepwise_vs_full", id="time"),
        pytest.param(lambda ids: np.float32(np.nan), "full_vs_torch", id="nan"),
        pytest.param(lambda ids: np.float32(ids[..., None] % 2 * 1e-3), "full_vs_torch", id="token"),
    ],
)
def test_a_fault_of_the_logits_is_caught(
    make_run: Callable[..., Path],
    tmp_path: Path,
    faulty: Callable[[Callable[[Array], Array]], None],
    fault: Callable[[Array], Array],
    caught: str,
) -> None:
    faulty(fault)
    checks = verify_steps(subject(make_run("language", "gru"), tmp_path), [], vocab=VOCAB)
    assert not checks[caught].observed <= checks[caught].bound
    with pytest.raises(ExportError, match=rf"verification failed: .*{caught}"):
        require(checks)


def test_a_fault_that_only_texts_show_is_caught(
    make_run: Callable[..., Path], tmp_path: Path, faulty: Callable[[Callable[[Array], Array]], None]
) -> None:
    made = subject(make_run("language", "gru"), tmp_path)
    starts = [Prompt(ids=(1, 7, 8, 9)), Prompt(ids=(1, 20))]
    require(text_checks(made, starts))
    liking = np.eye(VOCAB, dtype=np.float32) * 9.0
    # in a batch of one or two it likes another letter
    faulty(lambda ids: liking[5 + len(ids)])
    checks = text_checks(made, starts)
    assert checks["greedy_text_vs_torch"].observed == 1.0
    assert checks["greedy_text_alone_vs_batch"].observed == 1.0
    assert checks["beam_text_vs_torch"].observed == 1.0
    with pytest.raises(ExportError, match="greedy_text_alone_vs_batch"):
        require(checks)


def test_a_tie_is_nobody_s_fault(
    make_run: Callable[..., Path], tmp_path: Path, faulty: Callable[[Callable[[Array], Array]], None]
) -> None:
    level = subject(make_run("language", "gru", scale=0.0), tmp_path)
    nudge = np.zeros(VOCAB, np.float32)
    nudge[5] = 1e-6
    faulty(lambda ids: nudge)
    starts = [Prompt(ids=(1, 7, 8, 9))]
    assert decode(level, level.exported(), starts, beam=1) != decode(
        level, level.torch(level.rounded), starts, beam=1
    )
    require(text_checks(level, starts))


def test_a_wrong_weight_is_caught(make_run: Callable[..., Path], tmp_path: Path) -> None:
    made = subject(make_run("language", "transformer"), tmp_path)
    graph = ModelProto.FromString(made.graphs["model.onnx"].read_bytes())
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weight).copy()
    values[..., -1] += 0.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    made.graphs["model.onnx"].write_bytes(graph.SerializeToString())
    with pytest.raises(ExportError, match="full_vs_torch"):
        require(verify_steps(made, [], vocab=VOCAB))


def test_a_false_border_is_refused(make_run: Callable[..., Path], tmp_path: Path) -> None:
    made = subject(make_run("language", "lstm"), tmp_path)
    graph = ModelProto.FromString(made.graphs["model.onnx"].read_bytes())
    [logits] = [one for one in graph.graph.output if one.name == "logits"]
    logits.type.tensor_type.shape.dim[1].dim_param = "steps"
    made.graphs["model.onnx"].write_bytes(graph.SerializeToString())
    with pytest.raises(ExportError, match=r"model\.onnx: outputs declare .*steps.* should be .*time"):
        verify_steps(made, [], vocab=VOCAB)


def test_learned_positions_are_not_left(make_run: Callable[..., Path], tmp_path: Path) -> None:
    made = subject(make_run("language", "transformer", max_positions=12), tmp_path)
    assert made.limits == Limits(prompt_tokens=9, new_tokens=12, context_tokens=12)
    require(verify_steps(made, [], vocab=VOCAB))


def test_every_failure_is_named() -> None:
    checks = {
        "b": Check(bound=0.0, observed=1.0),
        "a": Check(bound=1e-4, observed=float("nan")),
        "c": Check(bound=0.5, observed=0.5),
    }
    with pytest.raises(
        ExportError, match=r"^verification failed: a nan is over its bound 0\.0001; b 1 is over"
    ):
        require(checks)
    require({"c": checks["c"]})


def test_large_logits_may_differ_by_as_much_more() -> None:
    small, large = np.array([1.0, -16.0], np.float32), np.array([1.0, -160.0], np.float32)
    assert difference([small + np.float32(0.5)], [small]) == pytest.approx(0.5)
    assert difference([large + np.float32(0.5)], [large]) == pytest.approx(0.05)
    assert np.isnan(difference([small], [small * np.float32(np.nan)]))
    assert np.isnan(difference([small], [small * np.float32(np.inf)]))
