"""Checkpoints are whole or absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.checkpoint import CheckpointError
from training.config import encode_recipe, recipe_from
from training.models import build
from training.tokenizer import train_tokenizer

FULL = """
import resource, sys
from pathlib import Path
import torch
from training import checkpoint
path = Path(sys.argv[1])
checkpoint.save(path, {"step": 1, "weights": torch.ones(10)})
# A file may grow no further than 64 KiB: what a full disk looks like to the writer.
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    checkpoint.save(path, {"step": 2, "weights": torch.ones(1 << 20)})
except checkpoint.CheckpointError as error:
    print(error)
"""


def test_disk_full_while_writing_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith(f"{path}: cannot be written: File too large")
    assert "the checkpoint before it is kept" in done.stdout
    assert checkpoint.load(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_failure_to_flush_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; the checkpoint before it is kept"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 rubbish", None])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"weights": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:2000] if damage is None else damage)
    with pytest.raises(CheckpointError, match=r"last.pt: damaged"):
        checkpoint.load(path)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last.pt: No such file"):
        checkpoint.load(tmp_path / "last.pt")


def run_folder(folder: Path) -> torch.nn.Module:
    recipe = recipe_from(
        {
            "kind": "language",
            "name": "small",
            "languages": ["en"],
            "corpus": {
                "sources": [{"path": "${NOWHERE}/x", "name": "x", "licence": "CC0", "attribution": "x"}]
            },
            "tokenizer": {"level": "char"},
            "model": {"architecture": "gru", "hidden": 8},
        }
    )
    folder.mkdir()
    (folder / "recipe.toml").write_text(encode_recipe(recipe), encoding="utf-8")
    tokenizer = train_tokenizer(["abc"], folder / "tokenizer.json", level="char")
    assert recipe.model is not None
    return build("language", recipe.model, tokenizer.get_vocab_size())


def test_a_model_is_rebuilt_from_its_folder_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = run_folder(run)
    trained.dropout.p = 0.5  # type: ignore[union-attr]
    averaged = {name: value + 1 for name, value in trained.state_dict().items()}
    last = {"model": trained.state_dict(), "averaged": averaged, "step": 1}
    checkpoint.save(run / "checkpoints" / "last.pt", last)
    model, recipe = checkpoint.load_model(run)
    assert recipe.corpus.sources[0].path == "${NOWHERE}/x"
    assert not model.training
    assert all(torch.equal(value, averaged[name]) for name, value in model.state_dict().items())
    checkpoint.save(run / "checkpoints" / "best.pt", {"model": trained.state_dict(), "step": 1})
    model, _ = checkpoint.load_model(run)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_folder(run)
    checkpoint.save(run / "checkpoints" / "best.pt", {"model": {"w": torch.ones(1)}, "step": 1})
    with pytest.raises(CheckpointError, match=r"best.pt: does not fit the recipe"):
        checkpoint.load_model(run)
