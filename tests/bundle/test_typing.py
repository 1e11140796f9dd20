"""Suggestions while a word is typed: known words, by the probability of all their spellings together."""

from __future__ import annotations

import itertools
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bundle.beam import Beam
from bundle.completion import CompletionOptions
from bundle.language import Language
from bundle.lexicon import LEXICON
from bundle.load import open_bundle
from bundle.manifest import Manifest, read_manifest
from bundle.sampling import log_softmax, log_sum_exp
from bundle.stepper import Prompt
from export import pack
from tests.bundle.conftest import write_manifest
from tests.bundle.forms import bigram_graph

WORDS = sorted(
    ["grand", "grande", "grandmother", "grandiose", "gare", "la", "le", "les", "l'", "hôtel", "the", "and"]
)


@pytest.fixture(scope="module")
def typed(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Language:
    """The tiny model of sub-words, with known words."""
    folder = tmp_path_factory.mktemp("typed") / "text-bpe"
    shutil.copytree(bundles["text-bpe"], folder)
    (folder / LEXICON).write_text("\n".join(WORDS), encoding="utf-8")
    with_words(folder, read_manifest(folder))
    model = open_bundle(folder)
    assert isinstance(model, Language)
    return model


@pytest.fixture(scope="module")
def unsure(typed: Language, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Language:
    """The same with a model that finds many spellings as likely as the usual one."""
    folder = tmp_path_factory.mktemp("unsure") / "text-bpe"
    shutil.copytree(bundles["text-bpe"], folder)
    (folder / LEXICON).write_text("\n".join(WORDS), encoding="utf-8")
    size = typed.tokenizer.size
    table = np.random.default_rng(5).normal(size=(size, size)).astype(np.float32)
    first, *others = sorted(spellings(typed, b" grande"), key=len)
    second = next(other for other in others if other[0] != first[0])
    [the], [space] = typed.tokenizer.encode("the"), typed.tokenizer.encode(" ")
    for spelling in (first, second):
        for one, next_one in itertools.pairwise((the, *spelling, space)):
            table[one, next_one] = 12
    (folder / "model.onnx").write_bytes(bigram_graph(table))
    with_words(folder, msgspec.structs.replace(read_manifest(folder), golden=[]))
    model = open_bundle(folder)
    assert isinstance(model, Language)
    return model


def with_words(folder: Path, manifest: Manifest) -> None:
    write_manifest(folder, msgspec.structs.replace(manifest, files=pack.records(folder)))


def spellings(model: Language, text: bytes) -> Iterator[tuple[int, ...]]:
    """Every way to spell ``text`` in tokens."""
    if not text:
        yield ()
    for id in range(model.tokenizer.size):
        surface = model.tokenizer.surface(id)
        if surface and text.startswith(surface):
            for rest in spellings(model, text[len(surface) :]):
                yield (id, *rest)


def probabilities(model: Language, before: str, word: str) -> list[float]:
    """Log-probabilities of each spelling of a word and of its end, by the definition."""
    ids = (model.manifest.special.bos or 0, *model.tokenizer.encode(before))
    table = model._words
    ends = np.append(np.flatnonzero(table.closing), model.manifest.special.eos)
    found = []
    for spelling in spellings(model, f" {word}".encode()):
        logprobs = log_softmax(model.stepper.score([Prompt((*ids, *spelling))])[0].astype(np.float64))
        places = range(len(ids) - 1, len(ids) + len(spelling) - 1)
        total = sum(logprobs[place, id] for place, id in zip(places, spelling, strict=True))
        found.append(float(total + log_sum_exp(logprobs[-1][ends])[0]))
    return found


def test_the_probability_of_a_word_is_that_of_all_its_spellings(unsure: Language) -> None:
    words = [word for word in WORDS if word.startswith("gran")]
    found = unsure.complete("the gran", CompletionOptions(level="word", n=len(words), max_tokens=1, beam=32))
    each = {word: probabilities(unsure, "the", word) for word in words}
    whole = {word: float(np.logaddexp.reduce(spelt)) for word, spelt in each.items()}
    likeliest = sorted(words, key=whole.__getitem__, reverse=True)
    assert [one.word for one in found] == likeliest
    for one in found:
        assert one.word is not None
        assert max(each[one.word]) - 1e-4 <= one.logprob <= whole[one.word] + 1e-4
    assert found[0].logprob > max(each[likeliest[0]]) + 0.05


@pytest.mark.parametrize(
    "prompt", ["", "the ", "the g", "la g", "la gr", "à l'h", "à l'", "x-g", "The G", "les l", "the", "("]
)
@pytest.mark.parametrize("n", [1, 3, 8])
def test_only_known_words_are_suggested(typed: Language, prompt: str, n: int) -> None:
    found = typed.complete(prompt, CompletionOptions(level="word", n=n, max_tokens=1))
    assert typed.knows(prompt)
    assert 0 < len(found) <= n
    assert len({one.text for one in found}) == len(found)
    assert [one.logprob for one in found] == sorted((one.logprob for one in found), reverse=True)
    for one in found:
        run = re.findall(r"[\w'-]+", prompt + one.text)[-1]
        if prompt == "x-g":
            run = run.removeprefix("x-")
        assert typed.lexicon is not None
        assert typed._words.known is not None
        assert typed._words.known.complete(run.encode()), one
        assert not re.search(r"[^\w'’ -]|\d", one.text), one


def test_longer_texts_have_known_words_too(typed: Language) -> None:
    for options in (
        CompletionOptions(level="word", max_tokens=6),
        CompletionOptions(level="word", max_tokens=4, n=3),
        CompletionOptions(level="word", max_tokens=6, n=4, temperature=2.0, seed=7),
    ):
        for one in typed.complete("the gran", options):
            assert typed._words.known is not None
            text = "the gran" + one.text
            runs = re.findall(r"[\w'-]+", text)
            if one.finish_reason != "stop" and one.tokens == typed.manifest.limits.new_tokens:
                runs.pop()
            assert all(typed._words.known.complete(run.encode()) for run in runs), text


def test_letters_that_no_known_word_has_are_spelt_freely(
    typed: Language, opened: dict[str, Language]
) -> None:
    options = CompletionOptions(level="word", n=3, max_tokens=1)
    assert not typed.knows("the qu")
    assert typed.complete("the qu", options) == opened["text-bpe"].complete("the qu", options)
    assert opened["text-bpe"].knows("the qu")  # no telling


def test_the_tail_that_a_model_can_read(opened: dict[str, Language]) -> None:
    chars = opened["chars"]  # a to g and the space, 40 tokens with the beginning
    assert chars.tail("abc de") == "abc de"
    assert chars.tail("gab " * 20 + "fad") == ("gab " * 20 + "fad")[-39:].partition(" ")[2]
    assert chars.tail("\ud800 abc") == "abc"
    assert chars.tail("abc \ud800") == ""
    assert chars.tail("a" * 60) is None


def test_the_revision_knows_the_words(typed: Language, opened: dict[str, Language]) -> None:
    assert typed.manifest.revision != opened["text-bpe"].manifest.revision


def test_outcomes_add_up_and_what_cannot_overtake_them_dies() -> None:
    beam = Beam(4, 0.0, lambda ids: None, 0, outcome=lambda ids: tuple(sorted(ids)), wanted=1)
    beam.advance([[1, 2, 3, 4]], np.log([[0.4, 0.3, 0.2, 0.1]]).tolist())
    assert len(beam.live) == 4
    # 1+2 and 2+1 come to the same; then both end
    logprobs = np.log([[1, 1e-9], [1, 1e-9], [0.5, 0.5], [0.5, 0.5]])
    beam.advance([[2, 0], [1, 0], [0, 9], [0, 9]], logprobs.tolist())
    assert [found.ids for found in beam.ranked()] == [(3,), (4,)]
    assert [each.ids for each in beam.live] == [(1, 2), (2, 1)]
    beam.advance([[0, 9], [0, 9]], np.log([[0.9, 0.1], [0.9, 0.1]]).tolist())
    assert beam.ranked()[0].ids == (1, 2)
    assert math.isclose(math.exp(beam.ranked()[0].logprob), 0.63)
    assert beam.live == []
