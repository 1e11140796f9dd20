"""`python -m export.unpack`: what export did to the weights is undone, number for number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
import pytest
import torch

from bundle.manifest import Precision, read_manifest
from export import ExportError
from export.lower import lower
from export.pipeline import export_run
from export.quantize import round_weights
from export.unpack import load_weights, main, unpack
from training.checkpoint import load_model
from training.config import load_recipe
from training.corpus import Digest
from training.models import Model, ModelConfig, build

MakeRun = Callable[..., Path]

MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "one-hot rnn": ("language", {"architecture": "rnn", "embedding": 0}),
    "gru": ("language", {"architecture": "gru", "embedding": 12}),
    "tied lstm": ("language", {"architecture": "lstm", "embedding": 20, "tied": True}),
    "lstm with attention": ("translator", {"architecture": "lstm", "embedding": 16}),
    "transformer": ("language", {"architecture": "transformer", "positions": "learned"}),
    "tied transformer": ("translator", {"architecture": "transformer", "tied": True}),
    "free transformer": ("translator", {"architecture": "transformer", "tied": False}),
}


def assert_equal(model: torch.nn.Module, other: torch.nn.Module) -> None:
    expected = dict(other.named_parameters())
    assert expected
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_every_weight_comes_back(make_run: MakeRun, tmp_path: Path, name: str, precision: Precision) -> None:
    kind, shape = MODELS[name]
    run = make_run(kind, **(shape | {"hidden": 40}))
    export_run(run, tmp_path / "bundle", precision=precision)
    recipe = unpack(tmp_path / "bundle", tmp_path / "run")
    found, read = load_model(tmp_path / "run")
    trained, _ = load_model(run)
    round_weights(trained, precision)
    assert_equal(found, trained)
    assert read == recipe == load_recipe(tmp_path / "run" / "recipe.toml", expand=False)
    revision = read_manifest(tmp_path / "bundle").revision
    assert recipe.start == f"bundle {revision}"
    corpora = msgspec.json.decode((tmp_path / "run" / "corpora.json").read_bytes(), type=list[Digest])
    assert [corpus.name for corpus in corpora] == ["Made up"]


def test_both_forms_give_the_same_run_and_export_again(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("language", "lstm", embedding=32, hidden=64)
    export_run(run, tmp_path / "letters", precision="int8", form="both")
    unpack(tmp_path / "letters", tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "again", precision="fp32")
    unpack(tmp_path / "again", tmp_path / "second")
    assert_equal(load_model(tmp_path / "second")[0], load_model(tmp_path / "run")[0])
    assert "letters" in (tmp_path / "again" / "CARD.md").read_text(encoding="utf-8")


def test_graphs_of_another_shape_are_refused() -> None:
    def made(hidden: int) -> Model:
        return build("language", ModelConfig(architecture="gru", hidden=hidden, embedding=8), 11)

    with pytest.raises(ExportError, match=r"model.onnx: .* is no weight of such a model"):
        load_weights(made(24), lower(made(16)))
    with pytest.raises(ExportError, match="is not in the graphs, or not all of it"):
        load_weights(made(16), {"model.onnx": onnx.ModelProto()})


def test_what_cannot_be_unpacked_says_so(
    make_run: MakeRun, vectors_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(vectors_run, tmp_path / "words")
    export_run(make_run("language", "lstm"), tmp_path / "fast", form="fast")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for bundle, run, reason in (
        ("words", "run", "word vectors are trained anew"),
        ("fast", "run", "fast graphs only"),
        ("fast", "taken", "exists; unpack into a folder of its own"),
        ("absent", "run", "absent"),
    ):
        assert main([str(tmp_path / bundle), str(tmp_path / run)]) == 1
        assert reason in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
