"""Penalties, biases, log-probabilities of tokens, and prompts given as ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bundle.decoding import Finished, Token
from bundle.errors import InvalidRequest
from bundle.language import CompletionOptions, Language, TokenLogprob
from bundle.sampling import choose, log_softmax, penalise
from bundle.stepper import Prompt

PROMPTS = {
    "chars": ["", "a", "abc ", "gfedcba abc"],
    "text-bpe": ["", "the gran", "la gare ", "l'h", "Je vais à"],
    "text-word": ["", "the grand", "la "],
}


@pytest.fixture(params=list(PROMPTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(opened: dict[str, Any], name: str) -> Language:
    found = opened[name]
    assert isinstance(found, Language)
    return found


def true_logprobs(model: Language, ids: list[int]) -> np.ndarray[Any, Any]:
    """[len(ids), vocab]: after bos and each of the ids but the last."""
    bos = model.manifest.special.bos
    assert bos is not None
    [logits] = model.stepper.score([Prompt((bos, *ids))])
    return log_softmax(logits)[:-1]


def check(model: Language, before: list[int], found: tuple[TokenLogprob, ...], top: int) -> None:
    """That what is said of tokens is what the model says of them, all computed in one run."""
    truth = true_logprobs(model, [*before, *(each.id for each in found)])[len(before) :]
    for row, each in zip(truth, found, strict=True):
        assert each.logprob == pytest.approx(float(row[each.id]), abs=1e-4)
        assert len(each.top) == top
        np.testing.assert_allclose([value for _, value in each.top], np.sort(row)[::-1][:top], atol=1e-4)
        np.testing.assert_allclose(
            [value for _, value in each.top], row[[id for id, _ in each.top]], atol=1e-4
        )


LOGPROBS = [
    CompletionOptions(logprobs=0, temperature=0.0),
    CompletionOptions(logprobs=3, temperature=1.0, seed=3, n=3),
    CompletionOptions(logprobs=2, temperature=1.0, seed=5, stop=("a", "gare", " h")),
    CompletionOptions(logprobs=1, temperature=1.0, seed=6, max_tokens=9, frequency_penalty=1.0),
    CompletionOptions(logprobs=2, temperature=0.0, max_tokens=6, logit_bias=((5, 50.0),)),
]


@pytest.mark.parametrize("options", LOGPROBS)
def test_logprobs_are_the_models_streamed_or_whole(
    model: Language, name: str, options: CompletionOptions
) -> None:
    for prompt in PROMPTS[name]:
        whole = model.complete(prompt, options)
        streamed: dict[int, list[TokenLogprob]] = {}
        for piece in model.stream(prompt, options):
            streamed.setdefault(piece.choice, []).extend(piece.logprobs)
        before = model.tokenizer.encode(prompt)
        for number, each in enumerate(whole):
            assert each.logprobs is not None
            assert tuple(streamed.get(number, ())) == each.logprobs
            check(model, before, each.logprobs, options.logprobs or 0)
            assert len(each.logprobs) <= each.tokens
            if each.finish_reason == "length":
                assert sum(one.logprob for one in each.logprobs) == pytest.approx(each.logprob, abs=1e-3)
            offsets = [one.offset for one in each.logprobs]
            assert offsets == sorted(offsets)
            assert all(0 <= offset <= len(each.text) for offset in offsets)


def test_logprobs_change_no_text(model: Language, name: str) -> None:
    for prompt in PROMPTS[name]:
        plain = model.complete(prompt, CompletionOptions(temperature=1.0, seed=9, n=2))
        told = model.complete(prompt, CompletionOptions(temperature=1.0, seed=9, n=2, logprobs=5))
        assert [each.text for each in plain] == [each.text for each in told]
        assert all(each.logprobs is None for each in plain)


def test_a_prompt_of_ids_is_a_prompt_of_text(model: Language, name: str) -> None:
    options = CompletionOptions(temperature=1.0, seed=2, n=2, logprobs=1)
    for prompt in PROMPTS[name]:
        ids = model.tokenizer.encode(prompt)
        text, read = model.read(ids)
        assert list(read) == ids
        assert model.read(prompt) == (prompt, tuple(ids))
        if text == prompt:
            assert model.complete(ids, options) == model.complete(prompt, options)


@pytest.mark.parametrize("ids", [[-1], [10**6], [0], [1]])
def test_ids_that_no_text_has_are_refused(model: Language, ids: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="stands for no text"):
        model.job(ids)


def test_prompt_scores_are_those_of_one_run(model: Language, name: str) -> None:
    for prompt in PROMPTS[name]:
        job, decoder = model.prompt_scores(prompt, top=2), model.decoder()
        ids = model.tokenizer.encode(prompt)
        assert job.cost == len(ids) + 1
        for request in job.requests:
            decoder.add(request, 0)
        while not job.done:
            for event in decoder.step():
                job.feed(0, event)
        found = tuple(job.result())
        assert [each.id for each in found] == ids
        check(model, [], found, min(2, len(found) and 2))


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-300, 1e-30, 1e-5])
def test_next_to_nothing_of_temperature_takes_the_likeliest(temperature: float) -> None:
    logits = np.array([-80.0, 3.0, -np.inf, 80.0, 79.9], np.float32)
    assert {choose(logits, temperature=temperature, uniform=each) for each in (0.0, 0.5, 0.999)} == {3}


def test_penalise_is_openai_s_formula() -> None:
    logits = np.zeros(5, np.float32)
    penalise(logits, [1, 3, 1], presence=0.5, frequency=0.25)
    np.testing.assert_array_equal(logits, np.array([0, -1.0, 0, -0.75, 0], np.float32))
    penalise(logits, [], presence=2, frequency=2)
    np.testing.assert_array_equal(logits, np.array([0, -1.0, 0, -0.75, 0], np.float32))


def ids_of(model: Language, prompt: str, options: CompletionOptions) -> list[int]:
    [found] = model.complete(prompt, options)
    assert found.logprobs is not None
    return [each.id for each in found.logprobs]


def test_greedy_with_penalties_and_biases_is_argmax_of_the_penalised(model: Language, name: str) -> None:
    special = {model.manifest.special.pad, model.manifest.special.bos, model.manifest.special.unk} - {None}
    for prompt in PROMPTS[name]:
        before = model.tokenizer.encode(prompt)
        options = CompletionOptions(
            temperature=0.0, beam=1, max_tokens=12, presence_penalty=0.7, frequency_penalty=0.9,
            logit_bias=((5, 1.5), (6, -2.0)), logprobs=0,
        )  # fmt: skip
        found = ids_of(model, prompt, options)
        for place in range(len(found)):
            row = true_logprobs(model, [*before, *found[: place + 1]])[-1].astype(np.float64)
            for id in found[:place]:
                row[id] -= 0.9
            for id in set(found[:place]):
                row[id] -= 0.7
            row[5] += 1.5
            row[6] -= 2.0
            row[list(special)] = -np.inf
            assert row[found[place]] >= row.max() - 1e-4


def test_a_bias_forces_and_bans(model: Language, name: str) -> None:
    forced = CompletionOptions(temperature=1.0, seed=1, max_tokens=4, logit_bias=((7, 100.0),), logprobs=0)
    assert ids_of(model, PROMPTS[name][0], forced) == [7] * 4
    eos = model.manifest.special.eos
    assert eos is not None

    def greedy(*banned: int) -> list[int]:
        biases = tuple((id, -100.0) for id in (eos, *banned))
        wishes = CompletionOptions(temperature=0.0, beam=1, max_tokens=4, logprobs=0, logit_bias=biases)
        return ids_of(model, PROMPTS[name][1], wishes)

    first = greedy()[0]
    assert len(greedy()) == 4
    assert first not in greedy(first)


def test_steered_rows_leave_their_neighbours_alone(model: Language, name: str) -> None:
    prompt = PROMPTS[name][1]
    wishes = [
        CompletionOptions(temperature=1.0, seed=4, n=2),
        CompletionOptions(temperature=1.0, seed=4, logit_bias=((5, 3.0),), frequency_penalty=2.0),
        CompletionOptions(temperature=0.0, beam=3),
        CompletionOptions(temperature=1.0, seed=4, logprobs=4),
    ]
    alone = [model.complete(prompt, each) for each in wishes]
    decoder, jobs = model.decoder(), [model.job(prompt, each) for each in wishes]
    for tag, job in enumerate(jobs):
        decoder.add(job.requests[0], tag)
    while not all(job.done for job in jobs):
        for event in decoder.step():
            assert isinstance(event, Token | Finished)
            tag = event.tag
            assert isinstance(tag, int)
            jobs[tag].feed(0, event)
    for job, wanted in zip(jobs, alone, strict=True):
        assert [each.text for each in job.result()] == [each.text for each in wanted]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (CompletionOptions(presence_penalty=2.1), "presence_penalty"),
        (CompletionOptions(frequency_penalty=-2.1), "frequency_penalty"),
        (CompletionOptions(frequency_penalty=float("nan")), "frequency_penalty"),
        (CompletionOptions(logit_bias=((10**6, 1.0),)), "logit_bias"),
        (CompletionOptions(logit_bias=((5, 101.0),)), "logit_bias"),
        (CompletionOptions(logit_bias=((5, 1.0),) * 1025), "logit_bias"),
        (CompletionOptions(logprobs=21), "logprobs"),
        (CompletionOptions(logprobs=1, beam=2), "beam"),
        (CompletionOptions(presence_penalty=1.0, beam=2), "beam"),
        (CompletionOptions(logprobs=1, level="word"), "logprobs"),
    ],
)
def test_wishes_that_cannot_be_met(opened: dict[str, Any], options: CompletionOptions, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        opened["text-bpe"].job("the", options)
    assert caught.value.field == field
