"""The disk is full: one clear line, an exit status, and nothing half-made under a good name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle.load import open_bundle
from tests.conftest import missing

RECIPE = "training/recipes/toy/masse-rnn.toml"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of half a mebibyte."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], capture_output=True, check=False
    )
    if done.returncode:
        missing("the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes of the disk free."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"")
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(b"\0" * max(0, free - leave))
    return ballast


def run(root: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], cwd=root, capture_output=True, text=True, timeout=240
    )


@pytest.mark.faults_long
def test_training_and_export(root: Path, disk: Path) -> None:
    trained = disk / "run"
    train = ("training", root / RECIPE, "--run", trained, "--set", "train.evaluate_every=10")
    # no room for the first checkpoint
    ballast = fill(disk, 12_288)
    done = run(root, *train)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr
    assert not list(trained.rglob("*.pt")), "half a checkpoint"
    # there is room again: what is there is gone on with, or begun anew
    ballast.unlink()
    done = run(root, *train, "--resume")
    assert done.returncode == 0, done.stderr
    last = trained / "checkpoints" / "last.pt"
    kept = last.read_bytes()
    # no room for the next one: the one before it stays, whole
    ballast = fill(disk, 4096)
    done = run(root, *train, "--resume", "--set", "train.steps=200")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert last.read_bytes() == kept
    assert not list(trained.rglob("*.part"))
    # nor for a bundle
    done = run(root, "export", trained, disk / "models" / "masse")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr
    assert not (disk / "models" / "masse").exists()
    assert [path.name for path in disk.iterdir() if path.name not in ("run", "ballast")] in ([], ["models"])
    assert not list((disk / "models").glob("*")), "something half-made was left"
    ballast.unlink()
    assert run(root, *train, "--resume", "--set", "train.steps=200").returncode == 0
    done = run(root, "export", trained, disk / "models" / "masse")
    assert done.returncode == 0, done.stderr
    good = open_bundle(disk / "models" / "masse").manifest.revision
    # and a bundle that is to be replaced stays until the new one is whole
    fill(disk, 4096)
    done = run(root, "export", trained, disk / "models" / "masse", "--force")
    assert done.returncode == 1, done.stderr
    assert open_bundle(disk / "models" / "masse").manifest.revision == good
