"""The manifest: strict to read, the same bytes to write, and a revision that follows what decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bundle.errors import BundleError
from bundle.manifest import (
    Decoding,
    FileRecord,
    Golden,
    Limits,
    Manifest,
    Special,
    compute_revision,
    encode,
    read_manifest,
)


@pytest.fixture
def manifest(bundles: dict[str, Path]) -> Manifest:
    return read_manifest(bundles["chars"])


def test_written_is_read(manifest: Manifest, tmp_path: Path) -> None:
    raw = encode(manifest)
    (tmp_path / "manifest.json").write_bytes(raw)
    assert read_manifest(tmp_path) == manifest
    plain = json.loads(raw)
    assert raw.decode() == json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert len(manifest.revision) == 12


def test_the_revision_follows_what_decides_an_answer(manifest: Manifest) -> None:
    files = {**manifest.files, "model.onnx": FileRecord(sha256="0" * 64, size=1)}
    deciding: list[dict[str, Any]] = [
        {"kind": "vectors"}, {"level": "bpe"}, {"languages": ["fr"]}, {"special": Special(pad=9)},
        {"limits": Limits(prompt_tokens=1, new_tokens=1)}, {"decoding": Decoding(top_k=3)},
        {"precision": "int8"}, {"files": files},
    ]  # fmt: skip
    beside: list[dict[str, Any]] = [
        {"name": "other"}, {"aliases": ["x"]}, {"golden": [Golden(input=[], output=[], scores=[])]},
        {"tolerance": {"CPUExecutionProvider": 1.0}}, {"parity": {}}, {"revision": "?"},
    ]  # fmt: skip
    revisions = {compute_revision(msgspec.structs.replace(manifest, **change)) for change in deciding}
    assert len(revisions | {manifest.revision}) == len(deciding) + 1
    for change in beside:
        assert compute_revision(msgspec.structs.replace(manifest, **change)) == manifest.revision


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda plain: plain.update(format=5), "format 5 is not understood"),
        (lambda plain: plain.update(form="both"), "model.fast.onnx is not recorded"),
        (lambda plain: plain.update(format="1"), "format '1' is not understood"),
        (lambda plain: plain.pop("format"), "format None is not understood"),
        (lambda plain: plain.update(surprise=1), "unknown field `surprise`"),
        (lambda plain: plain["limits"].update(surprise=1), r"unknown field `surprise` - at `\$.limits`"),
        (lambda plain: plain.pop("languages"), "missing required field `languages`"),
        (lambda plain: plain.update(kind="oracle"), "Invalid enum value 'oracle'"),
        (lambda plain: plain["limits"].update(new_tokens="8"), "Expected `int`, got `str`"),
        (lambda plain: plain.update(revision="0" * 12), "does not match its contents"),
        (lambda plain: plain["decoding"].update(beam=7), "does not match its contents"),
        (lambda plain: plain["files"].pop("model.onnx"), "model.onnx is not recorded"),
        (lambda plain: plain["files"].pop("tokenizer.json"), "tokenizer.json is not recorded"),
        (
            lambda plain: plain["files"].update({"../evil": {"sha256": "", "size": 0}}),
            "'../evil' is not a file beside the manifest",
        ),
    ],
)
def test_what_is_refused(
    bundles: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    plain = json.loads((bundles["chars"] / "manifest.json").read_bytes())
    change(plain)
    (tmp_path / "manifest.json").write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(BundleError, match=reason) as caught:
        read_manifest(tmp_path)
    assert caught.value.path == str(tmp_path / "manifest.json")
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"null", b'{"format": [1]}'])
def test_what_is_no_manifest(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleError, match=r"is not JSON|is not understood"):
        read_manifest(tmp_path)


def test_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read: No such file"):
        read_manifest(tmp_path)
