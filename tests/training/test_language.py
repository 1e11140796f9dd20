"""The language task: carried state, fresh lines, and what is held out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.tokenizer import Tokenizer
from training import corpus
from training.batching import LanguageBatch, NoData
from training.config import Recipe, recipe_from
from training.language import LanguageTask
from training.models import build
from training.tokenizer import train_tokenizer

LINES = [f"line {i} of the text {'abc' * (1 + i % 4)}" for i in range(200)]


def task(folder: Path, architecture: str = "lstm", **corpus_settings: object) -> LanguageTask:
    (folder / "text.txt").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    source = {"path": str(folder / "text.txt"), "name": "t", "licence": "CC0", "attribution": "us"}
    recipe: Recipe = recipe_from(
        {
            "kind": "language",
            "name": "small",
            "languages": ["en"],
            "corpus": {"sources": [source], "held_out": 0.2, "shuffle": 50} | corpus_settings,
            "tokenizer": {"level": "char"},
            "model": {"architecture": architecture, "hidden": 8, "heads": 2},
            "train": {"sequence": 12, "batch_tokens": 48, "evaluate_lines": 10},
        }
    )
    train_tokenizer(LINES, folder / "tokenizer.json", level="char")
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    assert recipe.model is not None
    torch.manual_seed(1)
    return LanguageTask(recipe, tokenizer, build("language", recipe.model, tokenizer.size))


@pytest.mark.parametrize("architecture", ["rnn", "gru", "lstm"])
def test_the_state_carried_makes_windows_one_text(tmp_path: Path, architecture: str) -> None:
    job = task(tmp_path, architecture)
    ids = np.random.default_rng(1).integers(3, job.tokenizer.size, (2, 13))
    going_on, afresh = np.zeros(2, np.bool_), np.ones(2, np.bool_)

    def window(start: int, stop: int, fresh: np.ndarray) -> float:
        batch = LanguageBatch(ids[:, start:stop], ids[:, start + 1 : stop + 1], fresh)
        return job.loss(batch).item()

    whole = window(0, 12, afresh)
    parts = window(0, 5, afresh) + window(5, 12, going_on)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert window(0, 5, afresh) + window(5, 12, afresh) != pytest.approx(whole, rel=1e-5)


def test_a_fresh_row_forgets_and_its_neighbour_does_not(tmp_path: Path) -> None:
    job = task(tmp_path)
    ids = np.random.default_rng(1).integers(3, job.tokenizer.size, (2, 9))
    one = LanguageBatch(ids[:, :4], ids[:, 1:5], np.ones(2, np.bool_))
    job.loss(one)
    state = job.state()["carried"]
    two = LanguageBatch(ids[:, 4:8], ids[:, 5:9], np.array([True, False]))
    kept = job._continued(two)
    assert kept is not None
    for name, tensor in kept.items():
        assert not tensor[0].any()
        assert torch.equal(tensor[1], state[name][1])


def test_gradients_end_at_the_border_of_a_window(tmp_path: Path) -> None:
    job = task(tmp_path)
    for _ in range(3):
        job.loss(job.next_batch()).backward()  # a second pass through a freed graph would raise
    assert all(not tensor.requires_grad for tensor in job.state()["carried"].values())


def test_held_out_lines_are_never_trained_on(tmp_path: Path) -> None:
    job = task(tmp_path)
    lines, _ = job._read_held_out(1000)
    trained = list(job._lines(0))
    tested = [line for line in LINES if corpus.split_of(line, 0.2) == "test"]
    assert sorted(lines + trained + tested) == sorted(LINES)
    assert {corpus.split_of(line, 0.2) for line in lines} == {"development"}
    assert 5 < len(lines) < 40


def test_nothing_held_out_is_said(tmp_path: Path) -> None:
    job = task(tmp_path, held_out=1e-9)
    with pytest.raises(NoData, match="held_out = 1e-09 leaves no line"):
        job.evaluate(job.model)


@pytest.mark.parametrize("architecture", ["gru", "transformer"])
def test_evaluation_leaves_the_job_as_it_was(tmp_path: Path, architecture: str) -> None:
    job = task(tmp_path, architecture)
    job.loss(job.next_batch())
    before, random = job.state(), torch.get_rng_state()
    scores = job.evaluate(job.model.eval())
    assert scores == job.evaluate(job.model)
    assert job.state()["stream"] == before["stream"]
    assert torch.equal(random, torch.get_rng_state())
    final = job.final(job.model)
    assert (final["set"], final["lines"]) == (
        "development half of the held-out 20.00% of the corpora by hash",
        len(job._read_held_out(100)[0]),
    )
