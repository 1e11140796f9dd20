"""Several processes train one model as one process would; what breaks is taken up again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.sameness import assert_same
from tests.training.several_processes import EQUAL, RANDOM
from training import checkpoint
from training.__main__ import main
from training.group import ALONE, Group, GroupError, joined, restarted, world_size
from training.progress import read_metrics

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
TEXT = "the sea is grey and old, the wind blows over it all night and the boats come home at dawn"
LINES = [TEXT[i % 40 : i % 40 + 5 + 7 * (i % 7)].strip() for i in range(90)]
SHAPES = {
    # five streams of text in two processes
    "lstm": ("language", 'architecture = "lstm"\nlayers = 2\nhidden = 12\nembedding = 6', 80),
    # three windows at once, and one or two at the end of a chunk
    "transformer": ("language", 'architecture = "transformer"\nhidden = 16\nheads = 2\ntied = true', 48),
    "translator": ("translator", 'architecture = "transformer"\nhidden = 16\nheads = 2\ntied = true', 160),
    # long pairs come alone, so that one process has nothing to do
    "attention": (
        "translator",
        'architecture = "lstm"\nhidden = 16\nembedding = 16\nattention = true\nbidirectional = true',
        64,
    ),
}
PLAIN = """
kind = "{kind}"
name = "job"
languages = {languages}
[corpus]
held_out = 0.1
shuffle = 40
[[corpus.sources]]
path = "${{TEXTS}}/text.tsv"
name = "t"
licence = "CC0"
attribution = "us"
columns = ["en", "fr"]
[tokenizer]
level = "char"
[model]
{model}
[train]
steps = 14
batch_tokens = {tokens}
sequence = 16
warmup = 4
accumulate = 2
evaluate_every = 7
evaluate_translations = 4
evaluate_lines = 10
threads = 1
"""
WORDS = """
kind = "vectors"
name = "words"
languages = ["en"]
[corpus]
held_out = 0
sources = [{ path = "text.tsv", name = "t", licence = "CC0", attribution = "us", columns = ["en", "fr"] }]
[tokenizer]
level = "word"
[vectors]
size = 8
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes, and the runs of all of them in two processes, of which one was killed once."""
    folder = tmp_path_factory.mktemp("group")
    lines = "".join(f"{line}\t{line[::-1]}\n" for line in LINES)
    (folder / "text.tsv").write_text(lines, encoding="utf-8")
    (folder / "other").mkdir()
    (folder / "other" / "text.tsv").write_text("another\ttext\n" + lines, encoding="utf-8")
    (folder / "words.toml").write_text(WORDS, encoding="utf-8")
    for name, (kind, model, tokens) in SHAPES.items():
        languages = '["en", "fr"]' if kind == "translator" else '["en"]'
        text = PLAIN.format(kind=kind, languages=languages, model=model, tokens=tokens)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    worker = Path(__file__).with_name("several_processes.py")
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        # One restart for the process that is killed. The others because a restarted process was twice seen to
        # abort in C++ (decision 9): what its death leaves is judged alike, and told below.
        torchrun = subprocess.Popen(
            [*TORCHRUN, "--nproc-per-node", "2", "--max-restarts", "3", str(worker), str(folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        )
        try:
            code = torchrun.wait(timeout=240)
        finally:
            torchrun.terminate()  # it takes its processes along
            torchrun.wait()
    told = (folder / "output.txt").read_text(encoding="utf-8")
    assert code == 0, told
    if (abort := told.find("Fatal Python error")) >= 0:
        with warnings.catch_warnings():
            warnings.simplefilter("always")  # seen in the summary, and not an error
            warnings.warn(f"a process aborted:\n{told[max(0, abort - 2000) : abort + 4000]}", stacklevel=1)
    return folder


@pytest.fixture(scope="module")
def output(folder: Path) -> str:
    return (folder / "output.txt").read_text(encoding="utf-8")


def state(run: Path, name: str = checkpoint.LAST) -> dict[str, object]:
    """A checkpoint, without the seconds, which are never the same."""
    found = checkpoint.load(run / checkpoint.CHECKPOINTS / name)
    found.pop("scheduler", None)
    return found


def assert_runs_are_same(one: Path, two: Path) -> None:
    for name in (checkpoint.LAST, checkpoint.BEST):
        assert_same(state(one, name), state(two, name))
    lines, others = (read_metrics(run / "metrics.jsonl") for run in (one, two))
    for record in (*lines, *others):
        del record["elapsed"]
    assert lines == others
    assert (one / "evaluation.json").read_bytes() == (two / "evaluation.json").read_bytes()


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_equal_one(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTS", str(folder))
    assert main([str(folder / f"{name}.toml"), "--run", str(tmp_path / "one")]) == 0
    one, two = (read_metrics(run / "metrics.jsonl") for run in (tmp_path / "one", folder / f"two-{name}"))
    for key in ("step", "tokens", "learning_rate"):
        assert [record.get(key) for record in one] == [record.get(key) for record in two]
    assert [record["step"] for record in one if "loss" in record] == list(range(1, 15))
    for key in ("loss", "evaluation"):
        values, others = ([r[key] for r in records if key in r] for records in (one, two))
        for value, other in zip(values, others, strict=True):
            assert other == pytest.approx(value, rel=2e-5)
    assert len({record["loss"] for record in one if "loss" in record}) > 5  # it learns
    last, other = state(tmp_path / "one"), state(folder / f"two-{name}")
    assert last["position"]["stream"] == other["position"]["stream"]  # type: ignore[index]
    for part in ("model", "position"):
        torch.testing.assert_close(flat(other[part]), flat(last[part]), rtol=1e-3, atol=2e-5)


def flat(value: object) -> dict[str, torch.Tensor]:
    """The tensors of weights, or of a carried state.

    Without the bias of attention's keys: it moves all scores of a row alike, so its gradient is what rounding
    leaves of zero, of which Adam makes whole steps.
    """
    assert isinstance(value, dict)
    found = {k: v for k, v in (value.get("carried", value) or {}).items() if isinstance(v, torch.Tensor)}
    for name in [name for name in found if name.endswith("attention.inputs.bias")]:
        query, _, value = found.pop(name).chunk(3)
        found |= {f"{name}.query": query, f"{name}.value": value}
    return found


def test_the_state_of_every_row_is_kept_whoever_has_it(folder: Path) -> None:
    carried = flat(state(folder / "two-lstm")["position"])
    assert {tuple(tensor.shape) for tensor in carried.values()} == {(5, 12)}


def test_interrupted_in_one_process_and_resumed_by_both(folder: Path, output: str) -> None:
    for rank in (0, 1):
        ended = codes(folder, rank)
        assert (ended["interrupted"], ended["resumed"]) == (1, 0)
        assert ended["again"] == (2 if rank == 0 else 1)
    assert "voisin-train: interrupted after step 13; --resume goes on from there" in output
    assert "holds a run already: --resume goes on with it" in output
    assert_runs_are_same(folder / "interrupted", folder / "whole")


def test_killed_and_started_again_by_torchrun(folder: Path, output: str) -> None:
    # whichever of the two torchrun finds dead first
    assert any(
        said in output for said in ("Signal 9 (SIGKILL)", "exitcode: -9", "another process ended or cannot")
    )
    assert_runs_are_same(folder / "killed", folder / "whole")


def test_each_thing_is_written_once(folder: Path, output: str) -> None:
    for run in ("killed", "interrupted", "whole"):
        steps = [r["step"] for r in read_metrics(folder / run / "metrics.jsonl") if "loss" in r]
        assert steps == list(range(1, 25))
        names = {path.name for path in (folder / run / checkpoint.CHECKPOINTS).iterdir()}
        assert names == {checkpoint.LAST, checkpoint.BEST}
    # each that began, and each that went on; an abort that was overcome makes one go on once more
    runs = len(EQUAL) + len(("minutes", "whole")) + 2 * 2 + output.count("Fatal Python error")
    assert output.count("24 ids, 2 processes") == runs
    assert state(folder / "whole")["recipe"] == state(folder / "killed")["recipe"]


def test_the_processes_draw_other_numbers(folder: Path) -> None:
    found = state(folder / "whole")
    processes = found["processes"]
    assert isinstance(processes, list)
    assert [part["rng_cuda"] for part in processes] == [None, None]
    assert torch.equal(processes[0]["rng"], found["rng"])  # type: ignore[arg-type]
    assert not torch.equal(processes[0]["rng"], processes[1]["rng"])


def test_what_two_processes_left_one_goes_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTS", str(folder))
    run = tmp_path / "run"
    shutil.copytree(folder / "whole", run)
    more = [str(folder / "lstm.toml"), "--run", str(run), *RANDOM, "--set", "train.steps=26", "--resume"]
    assert main(more) == 0
    assert state(run)["step"] == 26
    assert {tuple(t.shape) for t in flat(state(run)["position"]).values()} == {(5, 12)}


def test_the_clock_of_process_0_ends_all(folder: Path) -> None:
    assert [codes(folder, rank)["minutes"] for rank in (0, 1)] == [0, 0]
    records = read_metrics(folder / "minutes" / "metrics.jsonl")
    assert records[-1]["step"] == state(folder / "minutes")["step"]
    assert 0 < records[-1]["step"] < 1_000_000


def test_machines_with_other_texts_are_refused(folder: Path, output: str) -> None:
    assert [codes(folder, rank)["elsewhere"] for rank in (0, 1)] == [2, 2]
    said = "job: the corpora are not the text that process 0 reads"
    assert f"voisin-train: {said} (in another process)" in output
    assert f"voisin-train (process 1): {said} (here)" in output


def codes(folder: Path, rank: int) -> dict[str, int]:
    """How the jobs of a process ended."""
    found: dict[str, int] = json.loads((folder / f"codes-{rank}.json").read_text(encoding="utf-8"))
    return found


def test_word_vectors_say_that_they_train_alone(folder: Path, output: str) -> None:
    assert [codes(folder, rank)["words"] for rank in (0, 1)] == [2, 2]
    assert (
        "words: gensim trains vectors in one process, and 2 were started: start it without torchrun" in output
    )
    assert not (folder / "two-words").exists()


@pytest.mark.parametrize(("total", "size"), [(7, 3), (2, 5), (0, 2), (8, 4)])
def test_rows_are_shared_out(total: int, size: int) -> None:
    parts = [np.arange(total)[Group(rank, size).rows(total)] for rank in range(size)]
    assert np.concatenate(parts).tolist() == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_there_is_nobody_to_ask() -> None:
    assert ALONE.sum(0.1, 2.0) == [0.1, 2.0]
    assert ALONE.led(lambda: "mine") == "mine"
    assert ALONE.collect("mine") == ["mine"]
    assert not restarted()
    with joined("cpu") as group:
        assert group is ALONE


def test_who_leaves_has_said_everything_and_dies_of_nothing() -> None:
    text = "import atexit, os, training.group as g; atexit.register(os.abort); print('done'); g.leave()"
    command = [sys.executable, "-c", text]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_half_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(GroupError, match="WORLD_SIZE is 2, but 'RANK': torchrun sets them all"),
        joined("cpu"),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(GroupError, match="WORLD_SIZE: "):
        world_size()
