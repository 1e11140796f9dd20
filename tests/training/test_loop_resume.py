"""A job that is killed and resumed ends with the very weights of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.training.sameness import assert_same
from training import checkpoint
from training.__main__ import main
from training.progress import read_metrics

TEXT = "the sea is grey and old, the wind blows over it all night and the boats come home at dawn"
LINES = [TEXT[i % 40 : i % 40 + 5 + 7 * (i % 7)].strip() for i in range(150)]

SHAPES = {
    "lstm": (
        "language",
        '["en"]',
        'architecture = "lstm"\nlayers = 2\nhidden = 12\nembedding = 6\ndropout = 0.2',
    ),
    "transformer": (
        "language",
        '["en"]',
        'architecture = "transformer"\nhidden = 16\nheads = 2\ntied = true\ndropout = 0.2',
    ),
    "translator": (
        "translator",
        '["en", "fr"]',
        'architecture = "transformer"\nhidden = 16\nheads = 2\ntied = true\ndropout = 0.2',
    ),
}


def recipe(folder: Path, shape: str) -> Path:
    """A tiny job with all that is random: dropout, averages, several chunks an epoch and several epochs."""
    kind, languages, model = SHAPES[shape]
    tokenizer = 'level = "char"'
    more = ""
    if kind == "translator":
        tokenizer, more = 'level = "bpe"\nsize = 300', "subword_dropout = 0.2"
    (folder / "text.tsv").write_text("".join(f"{line}\t{line[::-1]}\n" for line in LINES), encoding="utf-8")
    path = folder / "job.toml"
    path.write_text(
        f"""
kind = "{kind}"
name = "job"
languages = {languages}
[corpus]
held_out = 0.1
shuffle = 40
sources = [{{ path = "text.tsv", name = "t", licence = "CC0", attribution = "us", columns = ["en", "fr"] }}]
[tokenizer]
{tokenizer}
[model]
{model}
[train]
steps = 240
batch_tokens = 128
sequence = 16
warmup = 20
accumulate = 2
optimizer = "muon"
average = 0.9
evaluate_every = 60
save_every = 20
evaluate_translations = 4
evaluate_lines = 10
threads = 1
{more}
""",
        encoding="utf-8",
    )
    return path


def last(run: Path) -> dict[str, object]:
    return checkpoint.load(run / checkpoint.CHECKPOINTS / checkpoint.LAST)


def kill_after_a_checkpoint(path: Path, run: Path) -> None:
    """Trains in a process of its own and kills it, without warning, once it has written two checkpoints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "training", str(path), "--run", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    file = run / checkpoint.CHECKPOINTS / checkpoint.LAST
    seen: set[int] = set()
    try:
        limit = time.monotonic() + 60
        while len(seen) < 2 and process.poll() is None and time.monotonic() < limit:
            if file.exists():
                seen.add(file.stat().st_ino)
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the job ended before it could be killed"


@pytest.mark.parametrize("shape", SHAPES)
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, shape: str) -> None:
    path = recipe(tmp_path, shape)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kill_after_a_checkpoint(path, killed)
    step = last(killed)["step"]
    assert isinstance(step, int)
    assert 20 <= step < 240
    assert main([str(path), "--run", str(killed), "--resume"]) == 0
    assert main([str(path), "--run", str(whole)]) == 0
    one, two = last(killed), last(whole)
    assert one.pop("scheduler") != {}
    two.pop("scheduler")  # seconds, which are never the same
    assert_same(one, two)
    three, four = (checkpoint.load(run / checkpoint.CHECKPOINTS / checkpoint.BEST) for run in (killed, whole))
    assert_same(three, four)
    steps = [[record["step"] for record in read_metrics(run / "metrics.jsonl")] for run in (killed, whole)]
    assert steps[0] == steps[1]
    assert (killed / "evaluation.json").read_bytes() == (whole / "evaluation.json").read_bytes()
    assert (whole / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_trains_too(tmp_path: Path, shape: str) -> None:
    short = ["train.precision=bf16", "train.steps=40", "train.evaluate_every=20", "train.warmup=5"]
    path, run = recipe(tmp_path, shape), tmp_path / "run"
    assert main([str(path), "--run", str(run), *(part for key in short for part in ("--set", key))]) == 0
    losses = [r["evaluation"]["loss"] for r in read_metrics(run / "metrics.jsonl") if "evaluation" in r]
    assert losses[1] < losses[0]
    model = last(run)["model"]
    assert isinstance(model, dict)
    assert {tensor.dtype for tensor in model.values()} == {torch.float32}
