"""`--start`: a run that begins where another ended."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from bundle.tokenizer import Tokenizer
from tests.training.sameness import assert_same
from training.__main__ import main
from training.checkpoint import load, load_model
from training.config import load_recipe
from training.corpus import Digest

RECIPE = """
kind = "language"
name = "{name}"
languages = ["en"]
[corpus]
held_out = 0.1
shuffle = 40
sources = [{{ path = "{name}.txt", name = "{name}", licence = "CC0", attribution = "us" }}]
[tokenizer]
level = "char"
[model]
architecture = "gru"
hidden = 16
embedding = 8
[train]
steps = 6
batch_tokens = 256
sequence = 16
warmup = 1
learning_rate = {rate}
average = 0.9
save_every = 3
threads = 1
[lexicon]
min_count = 2
"""


def recipe(folder: Path, name: str, text: str, rate: float = 1e-2) -> Path:
    lines = [f"{text} {number} {text[: 3 + number % 9]}" for number in range(80)]
    (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    path = folder / f"{name}.toml"
    path.write_text(RECIPE.format(name=name, rate=rate), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    assert main([str(recipe(folder, "sea", "the sea is grey and old")), "--run", str(folder / "run")]) == 0
    return folder / "run"


def test_it_begins_with_the_best_weights_and_the_tokenizer(before: Path, tmp_path: Path) -> None:
    # a rate of next to nothing leaves the weights as they were
    job = recipe(tmp_path, "boats", "boats come home at dawn", rate=1e-12)
    assert main([str(job), "--run", str(tmp_path / "run"), "--start", str(before)]) == 0
    found, kept = load_model(tmp_path / "run")
    expected, _ = load_model(before)
    for mine, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)
    assert kept.start == "sea"
    for name in ("tokenizer.json", "words.txt"):
        assert (tmp_path / "run" / name).read_bytes() == (before / name).read_bytes()
    corpora = msgspec.json.decode((tmp_path / "run" / "corpora.json").read_bytes(), type=list[Digest])
    assert [corpus.name for corpus in corpora] == ["boats", "sea"]


def test_resumed_it_ends_as_if_never_stopped(before: Path, tmp_path: Path) -> None:
    job = recipe(tmp_path, "boats", "boats come home at dawn")
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert main([str(job), "--run", str(whole), "--start", str(before)]) == 0
    constant = ["--set", "train.schedule=constant"]
    straight = tmp_path / "straight"
    assert main([str(job), "--run", str(straight), "--start", str(before), *constant]) == 0
    stopped = [str(job), "--run", str(halves), *constant]
    assert main([*stopped, "--start", str(before), "--set", "train.steps=3"]) == 0
    assert main([*stopped, "--resume"]) == 0
    assert_same(
        load(halves / "checkpoints" / "last.pt")["model"], load(straight / "checkpoints" / "last.pt")["model"]
    )
    assert load_recipe(halves / "recipe.toml", expand=False).start == "sea"
    assert (halves / "corpora.json").read_bytes() == (whole / "corpora.json").read_bytes()


@pytest.mark.parametrize(
    "hot", [[], ["--set", "model.embedding=0"], ["--set", "model.tied=true", "--set", "model.embedding=16"]]
)
def test_in_another_language_tokens_that_both_know_keep_their_weights(tmp_path: Path, hot: list[str]) -> None:
    sea, mer = tmp_path / "sea", tmp_path / "mer"
    still = ["--set", "train.learning_rate=1e-12", *hot]
    assert main([str(recipe(tmp_path, "sea", "the sea is grey and old")), "--run", str(sea), *still]) == 0
    job = recipe(tmp_path, "mer", "la mer était très grise")
    french = ["--set", 'languages=["fr"]', "--start", str(sea)]
    assert main([str(job), "--run", str(mer), *still, *french]) == 0
    theirs, ours = Tokenizer.load(sea / "tokenizer.json"), Tokenizer.load(mer / "tokenizer.json")
    assert theirs.id_of("é") is None
    assert ours.id_of("é") is not None
    shared = [(ours.id_of(letter), theirs.id_of(letter)) for letter in ("e", "r", " ", "<eos>")]
    assert any(mine != other for mine, other in shared)
    model, _ = load_model(mer)
    english, _ = load_model(sea)
    found, expected = model.state_dict(), english.state_dict()
    compared = 0
    for name, value in found.items():
        if value.shape == expected[name].shape:
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)
            continue
        axis = 0 if value.shape[0] == ours.size else 1
        for mine, other in shared:
            torch.testing.assert_close(
                value.select(axis, mine), expected[name].select(axis, other), rtol=0, atol=1e-6
            )
            compared += 1
    assert compared
    assert load_recipe(mer / "recipe.toml", expand=False).start == "sea"
    assert "é" in (mer / "words.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("model.hidden=24", "model differs from the recipe given"),
        ("tokenizer.level=word", "its tokenizer is of level char"),
    ],
)
def test_another_model_is_no_beginning(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, reason: str
) -> None:
    job = recipe(tmp_path, "boats", "boats come home at dawn")
    assert main([str(job), "--run", str(tmp_path / "run"), "--start", str(before), "--set", change]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_run_is_no_beginning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = recipe(tmp_path, "boats", "boats come home at dawn")
    assert main([str(job), "--run", str(tmp_path / "run"), "--start", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
