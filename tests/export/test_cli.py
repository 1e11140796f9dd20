"""`python -m export`: a bundle and a report, or one line that says why not and nothing on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from onnx import ModelProto, numpy_helper

import export.pipeline
from bundle.language import CompletionOptions, Language
from bundle.load import open_bundle
from bundle.manifest import Form, read_manifest
from bundle.translator import TranslationOptions, Translator
from export.__main__ import main
from export.quantize import Precision
from training.models import Model

MakeRun = Callable[..., Path]


def test_a_bundle_explains_itself(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("language", "gru")
    assert main([str(run), str(tmp_path / "letters")]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "letters: language letters, " in said.out
    assert "greedy_text_vs_torch" in said.out
    manifest = read_manifest(tmp_path / "letters")
    assert manifest.name == "letters"
    assert manifest.precision == "fp32"
    assert manifest.provenance.parameters == sum(
        p.numel() for p in export.pipeline.load_model(run)[0].parameters()
    )
    assert manifest.provenance.corpora[0].licence == "CC0"
    assert all(check.observed <= check.bound for check in manifest.parity.values())
    assert [golden.input for golden in manifest.golden][:2] == [["the sea"], ["a house."]]
    assert sorted(path.name for path in (tmp_path / "letters").iterdir()) == [
        "CARD.md",
        "manifest.json",
        "model.onnx",
        "scores.json",
        "tokenizer.json",
    ]
    scores = json.loads((tmp_path / "letters" / "scores.json").read_text())
    assert scores["revision"] == manifest.revision
    assert scores["speed"]["milliseconds"] > 0


def test_golden_examples_are_what_the_bundle_answers(make_run: MakeRun, tmp_path: Path) -> None:
    assert main([str(make_run("language", "lstm")), str(tmp_path / "letters")]) == 0
    model = open_bundle(tmp_path / "letters")
    assert isinstance(model, Language)
    for golden in model.manifest.golden:
        [completion] = model.complete(golden.input[0], CompletionOptions(max_tokens=16, temperature=0.0))
        assert [completion.text] == golden.output
        assert golden.scores == pytest.approx([completion.logprob], abs=1e-4)
    assert main([str(make_run("translator", "transformer")), str(tmp_path / "fr-en"), "--name", "FR"]) == 0
    translator = open_bundle(tmp_path / "fr-en")
    assert isinstance(translator, Translator)
    assert translator.manifest.name == "FR"
    for golden in translator.manifest.golden:
        assert [translator.translate(golden.input[0], TranslationOptions()).text] == golden.output


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_exported_twice_is_the_same_revision(make_run: MakeRun, tmp_path: Path, precision: Precision) -> None:
    run = make_run("translator", "lstm")
    for name in ("one", "two"):
        assert main([str(run), str(tmp_path / name), "--precision", precision]) == 0
    one, two = read_manifest(tmp_path / "one"), read_manifest(tmp_path / "two")
    assert one.revision == two.revision
    assert one.files == two.files
    assert one.golden == two.golden


def test_precisions_are_different_revisions_of_different_size(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("language", "transformer", hidden=64)
    for precision in ("fp32", "fp16", "int8"):
        assert main([str(run), str(tmp_path / precision), "--precision", precision]) == 0
    found = [read_manifest(tmp_path / precision) for precision in ("fp32", "fp16", "int8")]
    assert len({manifest.revision for manifest in found}) == 3
    sizes = [manifest.files["model.onnx"].size for manifest in found]
    assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2]


def test_an_existing_bundle_needs_force(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = make_run("language", "rnn", seed=1), make_run("language", "rnn", seed=2)
    assert main([str(one), str(tmp_path / "b")]) == 0
    revision = read_manifest(tmp_path / "b").revision
    assert main([str(two), str(tmp_path / "b")]) == 1
    assert "b: exists; --force replaces it" in capsys.readouterr().err
    assert read_manifest(tmp_path / "b").revision == revision
    assert main([str(two), str(tmp_path / "b"), "--force"]) == 0
    assert read_manifest(tmp_path / "b").revision != revision


def test_scores_outlive_an_export_of_the_same_model(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("language", "rnn")
    assert main([str(run), str(tmp_path / "b")]) == 0
    path = tmp_path / "b" / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": [], "mine": 1}))
    assert main([str(run), str(tmp_path / "b"), "--force"]) == 0
    assert json.loads(path.read_text())["mine"] == 1
    assert main([str(run), str(tmp_path / "b"), "--force", "--precision", "fp16"]) == 0
    assert "mine" not in json.loads(path.read_text())


def test_a_failed_verification_leaves_nothing(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lower = export.pipeline.lower

    def wrong(model: Model, precision: Precision, form: Form) -> dict[str, ModelProto]:
        graphs = lower(model, precision, form)
        for tensor in graphs["model.onnx"].graph.initializer:
            if tensor.name.endswith("bias") or len(tensor.raw_data) > 4096:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.05, tensor.name))
        return graphs

    run = make_run("language", "transformer")
    monkeypatch.setattr(export.pipeline, "lower", wrong)
    before = sorted(tmp_path.iterdir())
    assert main([str(run), str(tmp_path / "b")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("voisin-export: verification failed: ")
    assert "full_vs_torch" in said
    assert len(said.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("missing", ["recipe.toml", "tokenizer.json", "corpora.json", "checkpoints/best.pt"])
def test_a_run_that_lacks_a_file_is_told_in_one_line(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    run = make_run("language", "gru")
    (run / missing).unlink()
    assert main([str(run), str(tmp_path / "b")]) == 1
    said = capsys.readouterr().err
    # without a best checkpoint the last one is looked for
    assert Path(missing).name.replace("best", "last") in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "b").exists()


def test_a_damaged_checkpoint_is_told_in_one_line(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("language", "gru")
    path = run / "checkpoints" / "best.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert main([str(run), str(tmp_path / "b")]) == 1
    said = capsys.readouterr().err
    assert "best.pt" in said
    assert len(said.splitlines()) == 1


def test_weights_that_are_no_numbers_are_not_packed(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("language", "gru")
    path = run / "checkpoints" / "best.pt"
    state = torch.load(path)
    name = next(iter(state["model"]))
    state["model"][name] = state["model"][name] * float("nan")
    torch.save(state, path)
    assert main([str(run), str(tmp_path / "b")]) == 1
    assert "voisin-export: " in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from export.__main__ import parser; parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
