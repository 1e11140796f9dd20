"""Scores of language models: checked against closed forms, torch, and the service's answers one by one."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from bundle.completion import CompletionOptions
from bundle.language import Language
from bundle.load import open_bundle
from export import ExportError
from export.pipeline import export_run
from export.scoring.baseline import ngram_scores, train_ngrams
from export.scoring.lambada import STOP_WORDS, lambada_scores, ordinary
from export.scoring.language import language_scores
from export.scoring.words import SUGGESTIONS, complete_all, suggestions, typed_keys, word_scores
from training import checkpoint
from training.batching import line_batches
from training.config import Recipe, encode_recipe, recipe_from
from training.corpus import split_of
from training.evaluate import language_scores as torch_scores

MakeRun = Callable[..., Path]

LINES = ["the sea is calm.", "a", "every house, every street. " * 3, "who is there, then."]


@pytest.fixture
def language(make_run: MakeRun, tmp_path: Path) -> Callable[..., tuple[Language, Path]]:
    def make(architecture: str, scale: float | None) -> tuple[Language, Path]:
        run = make_run("language", architecture, scale=scale)
        export_run(run, tmp_path / "letters")
        model = open_bundle(tmp_path / "letters")
        assert isinstance(model, Language)
        return model, run

    return make


def test_a_model_that_knows_nothing_scores_the_alphabet(
    language: Callable[..., tuple[Language, Path]],
) -> None:
    model, _ = language("gru", 0.0)
    bits, token, word = language_scores(model, LINES, name="set", command="c")
    vocab = 29 + 4
    characters = sum(len(line) + 1 for line in LINES)
    assert bits.value == pytest.approx(math.log2(vocab), rel=1e-5)
    assert token.value == pytest.approx(vocab, rel=1e-5)
    words = sum(len(line.split()) + 1 for line in LINES)
    assert word.value == pytest.approx(vocab ** (characters / words), rel=1e-4)
    assert (bits.set, bits.size, bits.unit) == ("set", 4, "lines")
    assert token.note == f"{characters} tokens"


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_the_bundle_scores_what_torch_scores(
    language: Callable[..., tuple[Language, Path]], architecture: str
) -> None:
    model, run = language(architecture, None)
    module, _ = checkpoint.load_model(run)
    special = model.manifest.special
    assert special.bos is not None
    assert special.eos is not None
    batches = line_batches(
        model.tokenizer,
        LINES,
        bos=special.bos,
        eos=special.eos,
        pad=0,
        batch_tokens=4096,
        longest=model.manifest.limits.context_tokens,
    )
    want = torch_scores(module, batches, LINES)
    bits, token, word = language_scores(model, LINES, name="set", command="c")
    assert bits.value == pytest.approx(want["bits_per_character"], rel=1e-5)
    assert token.value == pytest.approx(want["perplexity"], rel=1e-4)
    assert word.value == pytest.approx(want["perplexity_per_word"], rel=1e-3)


def test_prompts_in_a_batch_are_those_of_users(language: Callable[..., tuple[Language, Path]]) -> None:
    model, _ = language("gru", None)
    options = CompletionOptions(level="word", n=5, max_tokens=1)
    prompts = ["the se", "the ", "who is", "a longer prompt than the others, b"]
    assert complete_all(model, prompts, options) == [model.complete(prompt, options) for prompt in prompts]


def test_a_prompt_too_long_loses_its_beginning(language: Callable[..., tuple[Language, Path]]) -> None:
    model, _ = language("transformer", None)
    limits = model.manifest.limits
    longest = min(limits.prompt_tokens, limits.context_tokens or limits.prompt_tokens) - 1
    options = CompletionOptions(level="word", max_tokens=1)
    words = "the sea is calm and " * longest
    [[found]] = complete_all(model, [words], options)
    place = words.index(" ", len(words) - longest - 1) + 1
    assert found == model.complete(words[place:], options)[0]


def test_last_words_are_those_the_service_writes(language: Callable[..., tuple[Language, Path]]) -> None:
    model, _ = language("lstm", None)
    contexts = ["the sea is", "`` who is", "every house ,", "then she"]
    prompts = ["The sea is ", '"Who is ', "Every house, ", "Then she "]
    one, ten = (CompletionOptions(level="word", n=n, max_tokens=1) for n in (1, 10))
    written = [model.complete(prompt, one)[0].word or "" for prompt in prompts]
    suggested = [
        next(
            word for choice in model.complete(prompt, ten) if (word := choice.word) and word not in STOP_WORDS
        )
        for prompt in prompts
    ]
    for words, place in ((written, 0), (suggested, 1)):
        passages = [f"{context} {word.upper()}" for context, word in zip(contexts, words, strict=True)]
        passages[-1] += "s"
        score = lambada_scores(model, passages, name="set", command="c")[place]
        assert (score.value, score.size) == (75.0, 4)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("`` i do n't know , '' he said . she left", '"I don\'t know," he said. She left'),
        ("bull 's - eye ( so it was ) ; ok", "Bull's - eye (so it was); ok"),
        ("` no , ' i 'll say ! never", "'No,' I'll say! Never"),
        ("is it ? it is", "Is it? It is"),
    ],
)
def test_ordinary_spelling(tokens: str, text: str) -> None:
    assert ordinary(tokens) == text


def test_keystrokes_are_those_of_a_typist(language: Callable[..., tuple[Language, Path]]) -> None:
    """Typed out letter by letter, asking the model as the service does."""
    model, _ = language("gru", None)
    options = CompletionOptions(level="word", n=SUGGESTIONS, max_tokens=1)
    listed = {
        typed: [one.word or "" for one in model.complete(f"the sea {typed}", options)] for typed in ("", "q")
    }
    words = [("the sea ", word) for word in (listed[""][0], listed["q"][0], "calm")] + [("a ", "is")]
    wanted = []
    for before, word in words:
        keys = len(word) + 1
        for typed in range(len(word)):
            offered = [one.word for one in model.complete(before + word[:typed], options)]
            if word in offered:
                keys = typed + 1
                break
        wanted.append(keys)
    assert typed_keys(model, words) == wanted
    assert wanted[:2] == [1, 2]


def test_accuracies_count_the_suggestions(language: Callable[..., tuple[Language, Path]]) -> None:
    model, _ = language("gru", None)
    lists = suggestions(model, ["the "], 10)
    assert len(lists[0]) > 5
    lines = [f"the {word}" for word in (lists[0][0], lists[0][3], lists[0][-1], "nowhere")]
    one, five, ten, saved = word_scores(model, ["single", *lines], name="set", command="c")
    assert (one.value, five.value, ten.value) == (25.0, 50.0, 75.0)
    assert one.size == 4
    keys = typed_keys(model, [("the ", line.removeprefix("the ")) for line in lines])
    without = sum(len(line.removeprefix("the ")) + 1 for line in lines)
    assert saved.value == pytest.approx(100 * (1 - sum(keys) / without))


def test_lines_of_single_words_are_told(language: Callable[..., tuple[Language, Path]]) -> None:
    model, _ = language("gru", None)
    with pytest.raises(ExportError, match="no line has a word after another"):
        word_scores(model, ["single", "words"], name="set", command="c")


def recipe_of(run: Path, path: Path, **changes: str) -> Recipe:
    _, recipe = checkpoint.load_model(run)
    text = encode_recipe(recipe).replace('path = "text"', f'path = "{path}"')
    for old, new in changes.items():
        text = text.replace(f"{old} = 0.0", f"{old} = {new}").replace(f"{old} = 1.0", f"{old} = {new}")
    return recipe_from(tomllib.loads(text))


def test_ngrams_learn_the_training_text_and_count_like_the_model(
    language: Callable[..., tuple[Language, Path]], tmp_path: Path
) -> None:
    model, run = language("gru", 0.0)
    (tmp_path / "text.txt").write_text("\n".join(["the sea is calm", "the sea is wide"] * 20))
    recipe = recipe_of(run, tmp_path / "text.txt")
    ngrams = train_ngrams(model, recipe, tokens=0)
    assert (ngrams.order, ngrams.tokens) == (8, 40 * 16)
    bits, word = ngram_scores(ngrams, model, ["the sea is calm"], name="set", command="c")
    nats = -float(ngrams.log_probabilities([[1, *model.tokenizer.encode("the sea is calm"), 2]])[0].sum())
    assert bits.value == pytest.approx(nats / math.log(2) / 16)
    assert word.value == pytest.approx(math.exp(nats / 5))
    flat, *_ = language_scores(model, ["the sea is calm"], name="set", command="c")
    assert bits.value < 0.3 < flat.value
    # as many tokens as asked for, to the end of the line, and no line twice however often an epoch reads it
    assert train_ngrams(model, recipe, tokens=17).tokens == 32
    assert (
        train_ngrams(model, recipe_of(run, tmp_path / "text.txt", weight="3.0"), tokens=0).tokens == 40 * 16
    )


def test_ngrams_never_see_what_is_held_out(
    language: Callable[..., tuple[Language, Path]], tmp_path: Path
) -> None:
    model, run = language("gru", None)
    lines = [f"line {chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(100)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    ngrams = train_ngrams(model, recipe_of(run, tmp_path / "text.txt", held_out="0.5"), tokens=0)
    train = [line for line in lines if split_of(line, 0.5) == "train"]
    assert 0 < len(train) < 100
    assert ngrams.tokens == sum(len(line) + 1 for line in train)
