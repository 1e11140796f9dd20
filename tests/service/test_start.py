"""What stops the start: one line that names the file and the reason, and an exit status."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import service.__main__
from bundle.manifest import FORMAT


def start(models: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the service until it refuses."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VOISIN_")}
    environment = kept | {"VOISIN_MODELS": str(models), "VOISIN_LISTEN_PORT": "0"} | variables
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def refusal(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one line it said."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1, done.stderr
    return said[0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


DAMAGES: list[Callable[[Path], None]] = [truncate, flip, Path.unlink, lambda path: path.write_bytes(b"")]
FILES = ["fr-en/encoder.onnx", "fr-en/tokenizer.json", "words-en/vectors.onnx", "words-en/manifest.json"]


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A copy of two bundles, to be damaged."""
    for name in ("fr-en", "words-en"):
        shutil.copytree(models / name, tmp_path / "models" / name)
    return tmp_path / "models"


@pytest.mark.parametrize("damage", DAMAGES, ids=["truncated", "flipped", "missing", "empty"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file(
    folder: Path,
    file: str,
    damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(folder / file)
    monkeypatch.setattr(service.__main__, "configure", lambda level: None)
    monkeypatch.setenv("VOISIN_MODELS", str(folder))
    assert service.__main__.main([]) == 1
    [said] = capsys.readouterr().err.splitlines()
    # a flipped bit may change a value in the manifest, which then blames the file that the value is about
    assert said.startswith(f"voisin: {folder / file.split('/')[0]}")
    assert ": " in said.removeprefix("voisin: ")


def test_a_damaged_file_stops_the_process(folder: Path) -> None:
    flip(folder / "fr-en" / "decoder.onnx")
    assert str(folder / "fr-en" / "decoder.onnx") in refusal(start(folder))


def test_a_future_format(folder: Path) -> None:
    path = folder / "fr-en" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": FORMAT + 1}))
    said = refusal(start(folder))
    assert str(path) in said
    assert f"format {FORMAT + 1}" in said


def test_a_folder_that_is_no_bundle(folder: Path) -> None:
    (folder / "notes").mkdir()
    assert str(folder / "notes" / "manifest.json") in refusal(start(folder))


def test_two_bundles_of_one_name(folder: Path) -> None:
    shutil.copytree(folder / "fr-en", folder / "other")
    said = refusal(start(folder))
    assert "fr-en" in said
    assert "taken" in said


def test_no_folder_and_an_empty_folder(tmp_path: Path) -> None:
    assert str(tmp_path / "none") in refusal(start(tmp_path / "none"))
    assert "no bundle" in refusal(start(tmp_path))


def test_scores_that_are_not_json(folder: Path) -> None:
    (folder / "fr-en" / "scores.json").write_text("{")
    assert "scores.json" in refusal(start(folder))


def test_cuda_that_is_not_there(folder: Path) -> None:
    said = refusal(start(folder, VOISIN_DEVICE="cuda"))
    assert "cuda was asked for" in said


def test_settings(folder: Path) -> None:
    assert "did you mean VOISIN_DEVICE" in refusal(start(folder, VOISIN_DEVIC="cpu"), 2)
    assert "VOISIN_THREADS=x" in refusal(start(folder, VOISIN_THREADS="x"), 2)
    assert "VOISIN_REDIS_URL" in refusal(start(folder, VOISIN_REDIS_URL="http://x"), 2)


def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in refusal(start(folder, VOISIN_LISTEN_PORT=port))


def test_importing_the_service_leaves_the_offline_rooms_alone() -> None:
    code = (
        "import sys, service.app, service.__main__, service.server; "
        "offline = ('torch', 'gensim', 'onnx', 'scipy', 'training', 'export'); "
        "print([name for name in offline if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_and_help() -> None:
    assert start(Path(), "--version").stdout.startswith("voisin ")
    assert "VOISIN_" in start(Path(), "--help").stdout
