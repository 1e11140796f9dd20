"""Which words of a corpus are known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bundle.lexicon import LEXICON, Lexicon
from bundle.tokenizer import Tokenizer
from training.__main__ import main as train
from training.config import RecipeError, load_recipe
from training.lexicon import known_words, make_lexicon
from training.tokenizer import train_tokenizer

RECIPE = """
kind = "language"
name = "small"
languages = ["fr"]
[corpus]
held_out = 0.0
sources = [{{ path = "{path}", name = "t", licence = "CC0", attribution = "t", weight = 4.0 }}]
[model]
architecture = "transformer"
hidden = 16
heads = 2
[lexicon]
size = 100
min_count = 2
"""


def names(count: int) -> list[str]:
    """Made-up words of letters alone."""
    return [
        f"mot{'abcdefghij'[n // 10 % 10]}{'abcdefghij'[n % 10]}{'xyz'[n // 100 % 3]}" for n in range(count)
    ]


def test_capitals_are_kept_where_a_sentence_does_not_ask_for_them() -> None:
    texts = [
        "The cat saw Paris. The dog, too.",
        "The end: Rome burns. A dog!",
        "we saw Rome; the cat (The Cure)",
    ]
    assert known_words(texts, size=99, min_count=2) == ["Rome", "cat", "dog", "saw", "the"]
    assert "Paris" in known_words(texts, size=99, min_count=1)


def test_heads_and_tails_are_those_that_many_words_share() -> None:
    texts = [f"et l'{name} est à {name}'s" for name in names(120)] * 2
    texts += ["et aujourd'hui peut-être", "il dit: aujourd'hui peut-être, don't"] * 2
    found = known_words(texts, size=999, min_count=2)
    assert {"l'", "'s", "aujourd'hui", "peut-être", "don't", "motaax", "est", "et"} <= set(found)
    assert not any(
        (word.startswith("l'") and word != "l'") or (word.endswith("'s") and word != "'s") for word in found
    )
    lexicon = Lexicon(found)
    assert lexicon.rests(b"L'mota") == [b"mota"]
    assert known_words(["rare words here"], size=9, min_count=2) == []


def test_every_line_is_counted_once_whatever_its_weight(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("La maison est l’été.\nla maison est là, l’été\nune fois\n", encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(path=text))
    recipe = load_recipe(tmp_path / "recipe.toml")
    train_tokenizer(
        ["la maison est l'été là une fois"] * 9, tmp_path / "t.json", level="bpe", size=300, plain=True
    )
    tokenizer = Tokenizer.load(tmp_path / "t.json")
    assert make_lexicon(recipe, tokenizer, tmp_path / LEXICON)
    assert (tmp_path / LEXICON).read_text(encoding="utf-8").split() == ["est", "l'été", "la", "maison"]
    text.write_text("une fois\n", encoding="utf-8")
    assert not make_lexicon(recipe, tokenizer, tmp_path / "none.txt")
    assert not (tmp_path / "none.txt").exists()


def test_a_run_begins_by_counting_its_words(tmp_path: Path) -> None:
    text, recipe, run = tmp_path / "text.txt", tmp_path / "recipe.toml", tmp_path / "run"
    # the same words in lines that differ, since each line counts once
    text.write_text("".join(f"la maison est là{' et là' * n}\n" for n in range(9)), encoding="utf-8")
    more = "[tokenizer]\nsize = 300\n[train]\nsteps = 1\nsequence = 8\nbatch_tokens = 16\n"
    recipe.write_text(RECIPE.format(path=text) + more)
    assert train([str(recipe), "--run", str(run)]) == 0
    assert (run / LEXICON).read_text(encoding="utf-8").split() == ["est", "et", "la", "là", "maison"]
    (run / LEXICON).unlink()
    # what a run began with is not made again
    assert train([str(recipe), "--run", str(run), "--resume", "--set", "train.steps=2"]) == 0
    assert not (run / LEXICON).exists()


def test_words_are_found_for_a_run_that_is_there_and_a_translator_has_no_use_for_them(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("la maison est là\n" * 20, encoding="utf-8")
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(path=text))
    train_tokenizer(["la maison est là"] * 9, tmp_path / "tokenizer.json", level="bpe", size=300)
    command = [sys.executable, "-m", "training.lexicon", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / LEXICON}\n"
    assert Lexicon.load(tmp_path / LEXICON).is_word(b"maison")
    (tmp_path / "tokenizer.json").unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "tokenizer.json" in done.stderr
    path.write_text(path.read_text().replace('"language"', '"translator"').replace('["fr"]', '["fr", "en"]'))
    with pytest.raises(RecipeError, match="lexicon"):
        load_recipe(path)
