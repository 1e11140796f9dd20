"""Completions: streamed or whole, by token or by word, and what is said to wishes that cannot be met."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.decoding import Decoder, Finished, Request, run
from bundle.errors import InvalidRequest
from bundle.language import Completion, CompletionOptions, Language
from bundle.stepper import Prompt
from bundle.words import WordRule, WordTable

MODELS = ["chars", "text-bpe", "text-word"]
PROMPTS = {
    "chars": ["", "a", "abc ", "gfedcba abc"],
    "text-bpe": ["", "the gran", "la gare ", "l'h", "Je vais à", "œuf 🥚"],
    "text-word": ["", "the gran", "la ", "l'h", "the grand"],
}


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(opened: dict[str, Any], name: str) -> Language:
    found = opened[name]
    assert isinstance(found, Language)
    return found


def streamed(model: Language, prompt: str, options: CompletionOptions) -> dict[int, str]:
    texts: dict[int, str] = {}
    for piece in model.stream(prompt, options):
        assert piece.text
        texts[piece.choice] = texts.get(piece.choice, "") + piece.text
    return texts


WISHES = [
    CompletionOptions(),
    CompletionOptions(max_tokens=1),
    CompletionOptions(temperature=1.0, seed=3, n=3),
    CompletionOptions(temperature=0.7, top_k=5, top_p=0.8, seed=4),
    CompletionOptions(beam=4),
    CompletionOptions(n=3),
    CompletionOptions(level="word"),
    CompletionOptions(level="word", max_tokens=2, temperature=1.0, seed=5, n=3),
    CompletionOptions(level="word", n=4),
    CompletionOptions(level="word", n=2, max_tokens=3),
    CompletionOptions(stop=("a", "gare", " h")),
    CompletionOptions(temperature=1.5, seed=8, n=4, stop=("e ", "d")),
    CompletionOptions(level="word", max_tokens=4, stop=("and", "g")),
    CompletionOptions(beam=3, stop=("e",)),
]


@pytest.mark.parametrize("options", WISHES)
def test_the_stream_is_the_whole(model: Language, name: str, options: CompletionOptions) -> None:
    for prompt in PROMPTS[name]:
        whole = model.complete(prompt, options)
        assert whole == model.complete(prompt, options)
        texts = streamed(model, prompt, options)
        assert [texts.get(choice, "") for choice in range(len(whole))] == [found.text for found in whole]
        assert 1 <= len(whole) <= options.n
        if options.temperature is None:
            assert len({found.text for found in whole}) == len(whole)
        for found in whole:
            assert not any(stop in found.text for stop in options.stop)
            assert found.logprob <= 1e-6
            assert "\ufffd" not in found.text


def test_greedy_is_the_decoders(model: Language, name: str) -> None:
    special = model.manifest.special
    assert special.bos is not None
    for prompt in PROMPTS[name]:
        ids = (special.bos, *model.tokenizer.encode(prompt))
        decoder = Decoder(model.stepper, eos=special.eos, pad=0, banned=(0, 1, 3))
        [[expected]] = run(decoder, [Request(Prompt(ids), max_tokens=12)])
        [found] = model.complete(prompt, CompletionOptions(max_tokens=12))
        text = model.tokenizer.decode(expected.ids)
        assert found.text.lstrip() == text.lstrip()
        assert (found.logprob, found.tokens) == (expected.logprob, len(expected.ids))
        assert (found.finish_reason, found.word) == (expected.reason, None)


def test_jobs_share_a_decoder(model: Language, name: str) -> None:
    """What the service does: the jobs of many users in one batch, each with the answer it has alone."""
    jobs = [model.job(prompt, options) for prompt in PROMPTS[name] for options in WISHES]
    decoder = model.decoder()
    for place, job in enumerate(jobs):
        assert job.cost > 0
        for index, request in enumerate(job.requests):
            decoder.add(request, (place, index))
    while decoder.active or decoder.waiting:
        for event in decoder.step():
            place, index = event.tag  # type: ignore[misc]
            assert not jobs[place].done
            jobs[place].feed(index, event)
    assert all(job.done for job in jobs)
    alone = [model.complete(prompt, options) for prompt in PROMPTS[name] for options in WISHES]
    assert [_texts(job.result()) for job in jobs] == [_texts(found) for found in alone]


def _texts(found: list[Completion]) -> list[tuple[str, str]]:
    return [(one.text, one.finish_reason) for one in found]


def test_a_job_that_is_cancelled_keeps_what_it_had(model: Language) -> None:
    job = model.job("a", CompletionOptions(temperature=1.0, seed=0, n=2, max_tokens=20))
    decoder = model.decoder()
    decoder.add(job.requests[0], 0)
    events = decoder.step()
    for event in (*events, *decoder.cancel(0)):
        job.feed(0, event)
    assert job.done
    reasons = [found.finish_reason for found in job.result()]
    early = [event.reason for event in events if isinstance(event, Finished)]
    assert sorted(reasons) == sorted([*early, *["cancelled"] * (2 - len(early))])


def test_seeds(model: Language) -> None:
    hot = {"temperature": 2.0, "max_tokens": 12}
    texts = [model.complete("a", CompletionOptions(seed=seed, **hot))[0].text for seed in (1, 1, 2, 3, 4)]  # type: ignore[arg-type]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 2
    chance = {model.complete("a", CompletionOptions(**hot))[0].text for _ in range(6)}  # type: ignore[arg-type]
    assert len(chance) > 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_stop_strings_cut_and_are_held_back(opened: dict[str, Any], data: st.DataObject) -> None:
    """Whatever string of the answer is a stop, the text ends before it, and no piece has gone too far."""
    name = data.draw(st.sampled_from(MODELS))
    model = opened[name]
    prompt = data.draw(st.sampled_from(PROMPTS[name]))
    seed = data.draw(st.integers(0, 5))
    wishes: dict[str, Any] = {"temperature": 1.0, "seed": seed, "max_tokens": 15}
    if data.draw(st.booleans()):
        wishes["level"] = "word"
    [free] = model.complete(prompt, CompletionOptions(**wishes))
    if not free.text:
        return
    start = data.draw(st.integers(0, len(free.text) - 1))
    stop = free.text[start : start + data.draw(st.integers(1, 6))]
    stops = (stop, "never in a text \u2603")
    [found] = model.complete(prompt, CompletionOptions(stop=stops, **wishes))
    cut = free.text[: free.text.index(stop)]
    assert found.text == cut
    assert found.finish_reason == "stop"
    assert streamed(model, prompt, CompletionOptions(stop=stops, **wishes)).get(0, "") == cut
    assert found.tokens <= free.tokens


@pytest.mark.parametrize(
    "prompt", ["the gran", "gran", "la grand", "l'h", "à l'h", "the ", "the", "", "hôte", "peu"]
)
@pytest.mark.parametrize("several", [1, 5])
def test_the_word_being_typed_is_completed(
    opened: dict[str, Any], name: str, prompt: str, several: int
) -> None:
    if name == "chars":
        prompt = {"": "", "the ": "ab "}.get(prompt, "ab c")
    model = opened[name]
    for words in (1, 3):
        options = CompletionOptions(level="word", n=several, max_tokens=words)
        for found in model.complete(prompt, options):
            assert found.text
            appended = re.findall(r"[\w'’-]*\w[\w'’-]*", found.text)
            assert len(appended) <= words
            if found.finish_reason == "stop" or found.tokens < model.manifest.limits.new_tokens:
                assert (found.finish_reason == "length") == (len(appended) == words)
                assert found.text == found.text.rstrip()
            typed = re.search(r"\w[\w'’-]*\Z", prompt)
            assert found.word is not None
            assert found.word.startswith(typed[0] if typed else "")
            assert re.match(r"\s*" + re.escape(found.word), (typed[0] if typed else "") + found.text)
            if prompt.endswith(" ") or not prompt:
                assert not found.text.startswith(" ")


def test_the_likeliest_words_come_first(opened: dict[str, Any]) -> None:
    found = opened["text-word"].complete("the gran", CompletionOptions(level="word", n=4))
    assert [one.word for one in found[:2]] == ["grand", "grandmother"]
    assert {one.word for one in found[2:]} <= {"grande", "grandement", "grandiose"}
    logprobs = [one.logprob for one in found]
    assert logprobs == sorted(logprobs, reverse=True)
    for typed, word in {"the gran": "grand", "the grandm": "grandmother", "à l'hôt": "l'hôtel"}.items():
        found = opened["text-bpe"].complete(typed, CompletionOptions(level="word", n=3))
        assert found[0].word == word
        assert len({one.word for one in found}) == 3


def test_a_word_counts_all_its_ends(opened: dict[str, Any]) -> None:
    """The log-probability of a word is that of its tokens and of anything but a letter after them."""
    model = opened["text-bpe"]
    table = WordTable(model.tokenizer)
    [found] = model.complete("la gar", CompletionOptions(level="word", max_tokens=1, beam=2))
    assert found.word == "gare"
    assert found.logprob <= 0
    space, comma, letter = (model.tokenizer.encode(text)[0] for text in (" ", ",", "x"))
    assert table.closing[[space, comma, letter]].tolist() == [True, True, False]
    assert not table.closing[model.manifest.special.eos]


def test_masks_are_those_of_the_definition(opened: dict[str, Any]) -> None:
    for name in ("text-bpe", "text-word"):
        tokenizer = opened[name].tokenizer
        table = WordTable(tokenizer)
        for letters in (b" ", b" g", b" gran", " hô".encode(), b"zz"):
            mask = table.continuing(letters, True)
            for id in range(tokenizer.size):
                surface = tokenizer.surface(id)
                longer = surface.startswith(letters)
                shorter = bool(surface) and letters.startswith(surface) and tokenizer.level == "bpe"
                assert mask[id] == (longer or shorter)
        rule = WordRule(table, " gran", 1, every=True)
        ids = tokenizer.encode(" grand")
        assert rule.allow(()).tolist() == table.continuing(b" gran", True).tolist()
        eos = tokenizer.special.eos
        assert not rule.allow(())[eos]
        assert rule.allow(ids)[eos]


def test_an_unfinished_character_goes_on(opened: dict[str, Any]) -> None:
    tokenizer = opened["text-bpe"].tokenizer
    table = WordTable(tokenizer)
    rule = WordRule(table, "", 1, every=True)
    [first] = [id for id in range(tokenizer.size) if tokenizer.surface(id) == "é".encode()[:1]]
    [second] = [id for id in range(tokenizer.size) if tokenizer.surface(id) == "é".encode()[1:]]
    allowed = rule.allow([first])
    assert allowed[second]
    assert not allowed[first]
    assert not allowed[tokenizer.special.eos]
    assert rule.closing([first]) is None
    assert rule.closing([first, second]) is not None
    assert not rule.allow([first, second])[second]


def test_nothing_continues_letters_that_no_word_has(opened: dict[str, Any]) -> None:
    [found] = opened["text-word"].complete("qqq", CompletionOptions(level="word"))
    assert (found.text, found.word, found.finish_reason) == ("", "qqq", "stop")


def test_defaults_are_the_bundles(opened: dict[str, Any]) -> None:
    model = opened["chars"]
    wishes = model.resolve(CompletionOptions())
    assert (wishes.max_tokens, wishes.beam, wishes.temperature, wishes.seed) == (20, 1, 0.0, 0)
    same = model.resolve(CompletionOptions(max_tokens=20, temperature=0.0, top_k=7, top_p=0.5, seed=9))
    assert same == wishes  # chance has no part in it
    assert model.resolve(CompletionOptions(temperature=1.0)).seed is None
    assert model.resolve(CompletionOptions(temperature=1.0, top_k=7)).top_k == 7
    assert model.resolve(CompletionOptions(n=3)).beam == 3
    assert model.resolve(CompletionOptions(level="word")).max_tokens == 8
    assert model.resolve(CompletionOptions(level="word", n=2)).max_tokens == 1


@pytest.mark.parametrize(
    ("wish", "field", "limit"),
    [
        ({"level": "sentence"}, "level", None),
        ({"max_tokens": 0}, "max_tokens", 1),
        ({"max_tokens": 31}, "max_tokens", 30),
        ({"n": 0}, "n", 1),
        ({"n": 33}, "n", 32),
        ({"beam": 0}, "beam", 1),
        ({"beam": 33}, "beam", 32),
        ({"beam": 2, "temperature": 0.5}, "beam", None),
        ({"temperature": -0.1}, "temperature", 0.0),
        ({"temperature": 11.0}, "temperature", 10.0),
        ({"temperature": float("nan")}, "temperature", 0.0),
        ({"top_k": -1}, "top_k", 0),
        ({"top_k": 13}, "top_k", 12),
        ({"top_p": 0.0}, "top_p", 1.0),
        ({"top_p": 1.1}, "top_p", 1.0),
        ({"top_p": float("nan")}, "top_p", 1.0),
        ({"seed": -1, "temperature": 1.0}, "seed", 0),
        ({"seed": 2**63, "temperature": 1.0}, "seed", 2**63 - 1),
        ({"stop": ("",)}, "stop", 128),
        ({"stop": ("x" * 129,)}, "stop", 128),
        ({"stop": ("x",) * 17}, "stop", 16),
        ({"stop": ("\ud83d",)}, "stop", None),
    ],
)
def test_wishes_that_cannot_be_met(
    opened: dict[str, Any], wish: dict[str, Any], field: str, limit: Any
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        opened["chars"].stream("a", CompletionOptions(**wish))
    assert (caught.value.field, caught.value.limit) == (field, limit)


def test_levels_that_a_model_lacks(opened: dict[str, Any]) -> None:
    assert opened["chars"].complete("a", CompletionOptions(level="char", max_tokens=3))
    with pytest.raises(InvalidRequest, match="char needs a model of characters; text-bpe is bpe"):
        opened["text-bpe"].job("a", CompletionOptions(level="char"))


def test_prompts_that_cannot_be_read(opened: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="has 41 tokens") as caught:
        opened["chars"].job("a" * 40)
    assert (caught.value.field, caught.value.limit) == ("prompt", 40)
    assert opened["chars"].job("a" * 39).requests
    with pytest.raises(InvalidRequest, match="surrogate") as caught:
        opened["chars"].job("\ud83d")
    assert caught.value.field == "prompt"
