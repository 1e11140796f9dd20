"""Releases of models: whole, unchangeable, one beside the other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bundle.errors import BundleError
from bundle.manifest import read_manifest
from export import ExportError
from export.publish import RELEASES, main, publish, releases
from service.registry import open_registry
from tests.service.making import make_bundles


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundles(tmp_path_factory.mktemp("made") / "models")


def names(folder: Path) -> set[str]:
    return {each.name for each in open_registry(folder, device="cpu", languages=("en", "fr"))}


def test_a_release_goes_on_from_the_one_before(bundles: Path, tmp_path: Path) -> None:
    first = publish([bundles / "words-en", bundles / "fr-en"], tmp_path, "1")
    assert names(first) == {"words-en", "fr-en"}
    second = publish([bundles / "en-fr"], tmp_path, "2")
    assert names(second) == {"words-en", "fr-en", "en-fr"}
    assert names(first) == {"words-en", "fr-en"}
    assert os.path.samefile(first / "fr-en" / "manifest.json", second / "fr-en" / "manifest.json")
    assert names(publish([bundles / "chars-en"], tmp_path, "3", base="")) == {"chars-en"}
    assert names(publish([bundles / "chars-en"], tmp_path, "4", base="1")) == {
        "words-en",
        "fr-en",
        "chars-en",
    }
    assert releases(tmp_path) == ["1", "2", "3", "4"]


def test_a_new_bundle_takes_the_place_of_the_old(bundles: Path, tmp_path: Path) -> None:
    first = publish([bundles / "fr-en", bundles / "words-en"], tmp_path / "volume", "1")
    changed = tmp_path / "fr-en"
    shutil.copytree(bundles / "en-fr", changed)  # other weights under the old name
    second = publish([changed], tmp_path / "volume", "2")
    revisions = [read_manifest(each / "fr-en").revision for each in (first, second)]
    assert revisions == [read_manifest(bundles / each).revision for each in ("fr-en", "en-fr")]


def test_published_twice_is_published_once_and_never_changed(bundles: Path, tmp_path: Path) -> None:
    target = publish([bundles / "fr-en"], tmp_path, "1")
    before = target.stat().st_mtime_ns
    assert publish([bundles / "fr-en"], tmp_path, "1") == target
    assert target.stat().st_mtime_ns == before
    with pytest.raises(ExportError, match="never changes"):
        publish([bundles / "en-fr"], tmp_path, "1")
    assert names(target) == {"fr-en"}


def test_a_damaged_bundle_leaves_nothing_behind(bundles: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "fr-en"
    shutil.copytree(bundles / "fr-en", damaged)
    graph = damaged / "encoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError):
        publish([damaged], tmp_path / "volume", "1")
    assert list((tmp_path / "volume" / RELEASES).iterdir()) == []


def test_old_releases_go_but_not_the_one_gone_on_from(bundles: Path, tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        publish([bundles / "fr-en"], tmp_path, name, keep=0)
    publish([bundles / "en-fr"], tmp_path, "4", base="1", keep=2)
    assert releases(tmp_path) == ["1", "3", "4"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "é"])
def test_a_name_is_a_name(bundles: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="is named in letters"):
        publish([bundles / "fr-en"], tmp_path, name)


def test_the_command_says_what_is_wrong(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--to", str(tmp_path), "--release", "1"]
    assert main([str(bundles / "fr-en"), *where]) == 0
    assert capsys.readouterr().out == "1\n"
    assert main([str(tmp_path), "--to", str(tmp_path), "--release", "2"]) == 1
    assert "manifest.json" in capsys.readouterr().err
    assert main([str(bundles / "fr-en"), "--to", str(tmp_path), "--release", "3", "--base", "9"]) == 1
    assert "no such release; there are 1" in capsys.readouterr().err
