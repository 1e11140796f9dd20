"""The measurements of a GPU, tried on a CPU; and what they say where there is no GPU."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bench.gpu
from tests.service.making import make_bundles


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model, a translator, and vectors, which are passed over."""
    made = make_bundles(tmp_path_factory.mktemp("made"))
    folder = tmp_path_factory.mktemp("models")
    for name in ("chars-en", "fr-en", "words-en"):
        shutil.copytree(made / name, folder / name)
    return folder


def test_every_question_is_answered(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"OUT": tmp_path, "CONNECTIONS": (1, 2), "WRITTEN": 6, "CROWD": 4}.items():
        monkeypatch.setattr(bench.gpu, name, value)
    # the small translator does not know the letters of real sentences
    monkeypatch.setattr(bench.gpu, "french", lambda count: ["abc", "gab"])
    monkeypatch.setattr(bench.gpu, "english", lambda count: ["abc", "gab"])
    few = ["--rounds", "1", "--seconds", "0.05", "--most", "8"]
    assert bench.gpu.main(["--device", "cpu", "--models", str(models), *few]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    found: dict[tuple[str, str], Any] = {(row["question"], row["side"]): row for row in report["rows"]}
    left, fetched = bench.gpu.LEFT, bench.gpu.FETCHED
    for name in ("chars-en", "fr-en"):
        for count in (1, 8):
            question = f"{name}, {count} rows, greedy"
            assert found[question, left]["unit"] == "tokens/s"
            assert found[question, left]["peer"] == fetched
            assert found[question, fetched]["ratio"] == 1.0
            step = f"{name}, {count} rows, a step"
            assert found[f"{step}, p50", left]["median"] <= found[f"{step}, p99", left]["median"]
        assert found[f"{name}, largest batch (no more were tried)", left]["median"] == 8
        assert found[f"{name}, alone and in a batch of 4: other answers", left]["median"] == 0
        assert found[f"{name}, alone and in a batch of 4: scores move by", left]["median"] < 1e-4
    assert found["fr-en, 2 sentences, beam 3, 8 rows", left]["unit"] == "sentences/s"
    for about in ("/translate, fr-en", "/v1/completions, chars-en"):
        assert found[about, "2 connections"]["unit"] == "answers/s"
        assert found[f"{about}, 2 connections, p99", "2 connections"]["unit"] == "ms"
    assert "state on the device" in capsys.readouterr().out


def test_rows_that_do_not_fit_end_the_ladder(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pace(model: Any, count: int, steps: list[float]) -> float:
        if count > 64:
            raise RuntimeError("Failed to allocate memory\nwhere it was")
        steps.append(0.001)
        return float(count)

    monkeypatch.setattr(bench.gpu, "_pace", pace)
    model = bench.gpu.open_models(models, bench.gpu.Place("cpu"))["chars-en"]
    found = bench.gpu.measure_steps(model, model, rounds=1, most=4096)
    assert found[-1].question == "chars-en, largest batch"
    assert found[-1].median == 64
    assert "128 rows do not fit: Failed to allocate memory" in capsys.readouterr().err


def test_no_gpu_is_said_with_a_status_of_its_own(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.gpu.main(["--models", str(models)]) == bench.gpu.NO_GPU
    [said] = capsys.readouterr().err.splitlines()
    assert "cuda was asked for" in said


def test_a_folder_without_models_is_another_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.gpu.main(["--models", str(tmp_path)]) == 1
    assert "holds no language model" in capsys.readouterr().err


@pytest.mark.parametrize("tool", [None, "exit 9", "echo could not reach the driver; exit 1"])
def test_the_command_installs_nothing_without_a_gpu(root: Path, tmp_path: Path, tool: str | None) -> None:
    """No nvidia-smi, one that lists no GPU, one that cannot reach its driver."""
    for program in ("bash", "dirname"):
        found = shutil.which(program)
        assert found is not None
        (tmp_path / program).symlink_to(found)
    if tool is not None:
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\n{tool}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    answer = subprocess.run(
        [root / "bench" / "gpu.sh"],
        env={"PATH": str(tmp_path), "PYTHON": "/no/python"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == bench.gpu.NO_GPU
    [said] = answer.stderr.splitlines()
    assert "no NVIDIA GPU" in said
