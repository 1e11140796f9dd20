"""LSTMs run by the kernels: onnxruntime's answers, and the same bits in any company and at any pace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.invariance import differing, requests
from bundle.decoding import Decoder
from bundle.load import open_bundle
from bundle.native import PROVIDER, RecurrentKernels, open_native
from bundle.session import Place, Session
from bundle.stepper import Prompt, Stepper
from export.lower import lower
from export.pack import write_graphs
from tests.bundle.native.small import EOS, PAD, VOCAB, opened, prompts, stepper
from training.models import build
from training.models.config import ModelConfig


@pytest.fixture(scope="module")
def of(lstm_folder: Path) -> Stepper:
    return stepper(lstm_folder, opened)


def test_logits_are_those_of_onnxruntime(of: Stepper, lstm_folder: Path) -> None:
    """A number on the border between two whole ones may go either way, and what follows moves a little."""
    runtime = stepper(lstm_folder, Session)
    some = prompts(of, 40)
    found, wanted = (np.concatenate(each.score(some)) for each in (of, runtime))
    apart = abs(found - wanted).max(axis=1) / wanted.std()
    assert np.median(apart) < 1e-5
    assert apart.max() < 0.15


def test_the_best_tokens_are_those_of_the_logits(of: Stepper) -> None:
    scores, _ = of.begin(prompts(of, 120), logits=True)
    assert scores.best is not None
    assert scores.logits is not None
    wanted = torch.log_softmax(torch.from_numpy(scores.logits.copy()).double(), dim=-1).numpy()
    order = np.argsort(-scores.logits, axis=1, kind="stable")[:, : of.best]
    np.testing.assert_array_equal(scores.best.ids, order)
    np.testing.assert_allclose(scores.best.scores, np.take_along_axis(wanted, order, 1), atol=2e-6)


def test_a_row_is_the_same_in_any_company_and_at_any_pace(of: Stepper) -> None:
    some = prompts(of, 110, seed=1)  # more than are multiplied together
    for together, prompt in zip(of.score(some), some, strict=True):
        np.testing.assert_array_equal(together, of.score([prompt])[0])
    for prompt in some[:20]:
        logits, state = of.prefill([Prompt(prompt.ids[:1])])
        stepped = [logits[0]]
        for id in prompt.ids[1:]:
            logits, state = of.step(state, np.array([id]))
            stepped.append(logits[0])
        np.testing.assert_array_equal(stepped, of.score([prompt])[0])


def test_bound_steps_and_fed_steps_are_the_same(of: Stepper) -> None:
    some = prompts(of, 5)
    (bound, one), (fed, other) = (of.begin(some, logits=logits) for logits in (False, True))
    for _ in range(7):
        assert bound.best is not None
        assert fed.best is not None
        np.testing.assert_array_equal(bound.best.scores, fed.best.scores)
        ids = fed.best.ids[:, 0].copy()
        bound, one = of.advance(one, ids, logits=False)
        fed, other = of.advance(other, ids, logits=True)


def test_requests_of_every_kind_answer_alone_as_in_a_crowd(of: Stepper) -> None:
    asked = requests(48, 5, vocab=VOCAB, translates=False, bos=1, eos=EOS)
    assert differing(lambda rows: Decoder(of, eos=EOS, pad=PAD, max_rows=rows), asked, seed=5) == 0


@pytest.mark.parametrize("name", ["chars-en", "chars-fr"])
def test_bundles_that_ship_are_run_by_the_kernels(root: Path, name: str) -> None:
    """Their log-probability of a text is that of onnxruntime; opening compares the golden answers, too."""
    texts = ["The king of the island was old.", "La maison de mon père était grande."]
    models: list[Any] = [
        open_bundle(root / "models" / name, device=Place(kernels=each)) for each in (True, False)
    ]
    assert [model.provider for model in models] == [PROVIDER, "CPUExecutionProvider"]
    tokenizer = models[0].tokenizer
    for text in texts:
        ids = tuple(tokenizer.encode(text))
        one, other = (
            torch.log_softmax(torch.from_numpy(model.stepper.score([Prompt((1, *ids))])[0][:-1]), -1)[
                torch.arange(len(ids)), torch.tensor(ids)
            ].sum()
            for model in models
        )
        assert float(one) == pytest.approx(float(other), rel=0.005)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ids", VOCAB, "no token"),
        ("ids", -1, "no token"),
        ("counts", 3, "too many"),
        ("counts", 0, "no token"),
    ],
)
def test_numbers_that_lead_out_of_arrays_are_refused(
    lstm_folder: Path, name: str, value: int, said: str
) -> None:
    graph = open_native(lstm_folder / "model.onnx")
    assert isinstance(graph, RecurrentKernels)
    given: dict[str, Any] = {
        "ids": np.full((2, 2), 5),
        "counts": np.full(2, 2, np.int32),
        "picks": np.ones((2, 1), np.int64),
        **{key: np.zeros((2, 64), np.float32) for key in graph.inputs if key.startswith("past.")},
    }
    graph.run(given, ["logits"])
    given[name].reshape(-1)[-1] = value
    with pytest.raises(ValueError, match=said):
        graph.run(given, ["logits"])


@pytest.mark.parametrize(
    "wish",
    [
        {"architecture": "gru"},
        {"architecture": "rnn"},
        {"architecture": "lstm", "tied": True, "embedding": 64},
        {"architecture": "lstm", "hidden": 40},
        {"architecture": "lstm", "vocab": 3000, "embedding": 32},
    ],
    ids=str,
)
def test_other_recurrent_models_are_left_to_onnxruntime(tmp_path: Path, wish: dict[str, Any]) -> None:
    vocab = wish.pop("vocab", VOCAB)
    config = ModelConfig(**{"hidden": 64, **wish})
    write_graphs(tmp_path, lower(build("language", config, vocab).eval(), "int8", "fast"))
    assert open_native(tmp_path / "model.onnx") is None
