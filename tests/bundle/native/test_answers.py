"""Kernels of our own: onnxruntime's answers, and the same bits in any company."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.invariance import differing, requests
from bundle.decoding import Decoder, run
from bundle.load import open_bundle
from bundle.native import PROVIDER
from bundle.session import Place, Session
from bundle.stepper import Prompt
from tests.bundle.native.small import EOS, PAD, VOCAB, opened, prompts, stepper


def test_logits_are_those_of_onnxruntime(folder: Path) -> None:
    """Both round alike, so most rows agree to the last bits of float32. A number on the border between two
    whole ones may go either way, and then logits move as rounding moves them (export allows 0.15)."""
    kernel, runtime = stepper(folder, opened), stepper(folder, Session)
    some = prompts(kernel, 24)
    found, wanted = (np.concatenate(each.score(some)) for each in (kernel, runtime))
    apart = abs(found - wanted).max(axis=1) / wanted.std()
    assert np.median(apart) < 1e-5
    assert apart.max() < 0.15


def test_the_best_tokens_are_those_of_the_logits(folder: Path) -> None:
    of = stepper(folder, opened)
    scores, _ = of.begin(prompts(of, 30), logits=True)
    assert scores.best is not None
    assert scores.logits is not None
    wanted = torch.log_softmax(torch.from_numpy(scores.logits.copy()).double(), dim=-1).numpy()
    np.testing.assert_array_equal(
        scores.best.ids, np.argsort(-scores.logits, axis=1, kind="stable")[:, : of.best]
    )
    np.testing.assert_allclose(scores.best.scores, np.take_along_axis(wanted, scores.best.ids, 1), atol=2e-6)


def test_attention_is_that_of_onnxruntime(folder: Path) -> None:
    kernel, runtime = stepper(folder, opened), stepper(folder, Session)
    if not kernel.aligns:
        assert not runtime.aligns
        return
    some = prompts(kernel, 12)
    for found, wanted, prompt in zip(kernel.align(some), runtime.align(some), some, strict=True):
        assert found.shape == (len(prompt.ids), len(prompt.source))
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        assert np.median(abs(found - wanted)) < 1e-5
        assert abs(found - wanted).max() < 0.02


@pytest.mark.parametrize("name", ["fr-en", "en-fr", "text-en", "text-fr"])
def test_bundles_that_ship_are_run_by_the_kernels(root: Path, name: str) -> None:
    """Opening compares the golden answers, which onnxruntime gave."""
    bundle = root / "models" / name
    kernel, runtime = (open_bundle(bundle, device=Place(kernels=each)) for each in (True, False))
    assert kernel.provider == PROVIDER
    assert runtime.provider == "CPUExecutionProvider"
    texts = {
        "fr-en": ["Où est la gare ?", "Il pleut depuis trois jours.", "Je ne sais pas nager."],
        "en-fr": ["Where is the station?", "It has been raining for days.", "I cannot swim."],
        "text-en": ["The king ", "It is ", "In the year"],
        "text-fr": ["Le roi ", "Il est ", "Dans la ville"],
    }[name]
    for text in texts:
        for request in runtime.job(text).requests:  # type: ignore[union-attr]
            best, *_ = run(runtime.decoder(max_rows=64), [request])[0]  # type: ignore[union-attr]
            prompt = request.prompt
            told = [
                _log_probability(model, Prompt((*prompt.ids, *best.ids), prompt.source), len(best.ids))
                for model in (kernel, runtime)
            ]
            assert math.isclose(*told, abs_tol=0.2)


def _log_probability(model: Any, prompt: Prompt, count: int) -> float:
    """Of the last so many tokens."""
    (logits,) = model.stepper.score([prompt])
    logprobs = torch.log_softmax(torch.from_numpy(logits).double(), -1)[-1 - count : -1]
    return float(logprobs[torch.arange(count), torch.tensor(prompt.ids[-count:])].sum())


# --- whatever else is in the batch


def test_a_row_is_the_same_in_any_company_and_at_any_pace(folder: Path) -> None:
    of = stepper(folder, opened)
    some = prompts(of, 120, seed=1)  # more tokens than one bunch holds
    for together, prompt in zip(of.score(some), some, strict=True):
        np.testing.assert_array_equal(together, of.score([prompt])[0])
    logits, state = of.prefill([Prompt(prompt.ids[:1], prompt.source) for prompt in some])
    stepped = [[row] for row in logits]
    for place in range(1, max(len(prompt.ids) for prompt in some)):
        ids = np.array([prompt.ids[place] if place < len(prompt.ids) else PAD for prompt in some])
        logits, state = of.step(state, ids)
        for row, each in zip(stepped, logits, strict=True):
            row.append(each)
    for row, prompt in zip(stepped, some, strict=True):
        np.testing.assert_array_equal(row[: len(prompt.ids)], of.score([prompt])[0])


def test_requests_of_every_kind_answer_alone_as_in_a_crowd(folder: Path) -> None:
    of = stepper(folder, opened)
    translates = of._encoder is not None
    asked = requests(48, 5, vocab=VOCAB, translates=translates, bos=1, eos=EOS)
    assert differing(lambda rows: Decoder(of, eos=EOS, pad=PAD, max_rows=rows), asked, seed=5) == 0


def test_bound_steps_and_fed_steps_are_the_same(folder: Path) -> None:
    of = stepper(folder, opened)
    some = prompts(of, 5)
    (bound, one), (fed, other) = (of.begin(some, logits=logits) for logits in (False, True))
    for _ in range(40):  # the past grows beyond the room that it began with
        assert bound.best is not None
        assert fed.best is not None
        np.testing.assert_array_equal(bound.best.ids, fed.best.ids)
        np.testing.assert_array_equal(bound.best.scores, fed.best.scores)
        ids = fed.best.ids[:, 0].copy()
        bound, one = of.advance(one, ids, logits=False)
        fed, other = of.advance(other, ids, logits=True)


def test_threads_do_not_meet(folder: Path) -> None:
    of = stepper(folder, opened)
    some = prompts(of, 16)
    wanted = [of.score([prompt])[0] for prompt in some]
    faults: list[int] = []

    def ask(place: int) -> None:
        for _ in range(15):
            if not np.array_equal(of.score([some[place]])[0], wanted[place]):
                faults.append(place)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(some))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_positions_grow_as_they_are_needed(folder: Path) -> None:
    """More than the table of sines begins with; a learned table has its last vector for all that follow."""
    kernel, runtime = stepper(folder, opened), stepper(folder, Session)
    rng = np.random.default_rng(0)
    source = (5, 6, EOS) if kernel._encoder is not None else ()
    long = [Prompt(tuple(int(id) for id in rng.integers(4, VOCAB, 600)), source)]
    found, wanted = kernel.score(long)[0], runtime.score(long)[0]
    assert np.median(abs(found - wanted)) < 0.02 * wanted.std()
