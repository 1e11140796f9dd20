"""int8 beside fp32: a bundle of a real run, both sides measured on the same text."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import bench.precision
from bench.precision import main, ratio
from export.pipeline import export_run
from training.__main__ import main as train
from training.ablations.report import Report, markdown, markers

TOY = Path(__file__).parents[2] / "training" / "recipes" / "toy" / "masse-gru.toml"


def test_the_ratio_is_that_of_the_medians() -> None:
    assert ratio({"int8": [1.0, 30.0, 3.0], "fp32": [6.0, 2.0, 100.0]}) == 0.5


def test_a_bundle_beside_the_run_it_was_exported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.precision, "OUT", tmp_path / "out")
    monkeypatch.setattr(bench.precision, "SECONDS", 0.0)
    runs, models, document = tmp_path / "runs", tmp_path / "models", tmp_path / "results.md"
    text = f"corpus.sources.0.path={TOY.with_name('masse.txt')}"
    # rows of 32 numbers are the shortest that int8 is used for
    settings = ["--set", "train.steps=3", "--set", "model.hidden=48", "--set", text]
    assert train([str(TOY), "--run", str(runs / "masse"), *settings]) == 0
    export_run(runs / "masse", models / "masse", precision="int8")
    begin, end = markers("int8")
    document.write_text(f"{begin}\n{end}\n", encoding="utf-8")

    command = ["--models", str(models), "--runs", str(runs), "--limit", "5", "--rounds", "2"]
    assert main([*command, "--results", str(document)]) == 0
    report = msgspec.json.decode((tmp_path / "out" / "int8.json").read_bytes(), type=Report)
    ((name, metric, fp32, int8, large, small, opening, speed),) = report.tables[0].rows
    assert (name, metric) == ("masse", "bits per character")
    assert isinstance(fp32, float)
    assert int8 == pytest.approx(fp32, rel=0.01)
    assert isinstance(small, float)
    assert isinstance(large, float)
    assert small < large
    assert isinstance(opening, float)
    assert opening > 0
    assert isinstance(speed, float)
    assert speed > 0
    assert document.read_text("utf-8") == f"{begin}\n{markdown(report)}\n{end}\n"

    capsys.readouterr()
    assert main(["none", *command]) == 1
    assert capsys.readouterr().err.startswith("bench.precision: ")
