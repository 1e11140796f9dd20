"""What a reader refuses, each with the file and the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bundle.errors import BundleError
from bundle.language import Language
from bundle.load import open_bundle
from bundle.manifest import GRAPHS, Limits, Manifest, Special, read_manifest
from bundle.translator import Translator
from bundle.vectors import Vectors

Rewrite = Callable[[Path, Manifest], Manifest]
NAMES = ["words", "chars", "fr-en", "text-bpe", "text-word"]
FILES = [
    (name, file)
    for name, kind in (("words", "vectors"), ("chars", "language"), ("fr-en", "translator"))
    for file in ("manifest.json", "tokenizer.json", *GRAPHS[kind])  # type: ignore[index]
]


@pytest.fixture
def copy(bundles: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(bundles[name], tmp_path / name))


def test_whole_bundles_open(bundles: dict[str, Path]) -> None:
    kinds = {name: type(open_bundle(bundles[name])) for name in NAMES}
    assert kinds == {
        "words": Vectors, "chars": Language, "fr-en": Translator, "text-bpe": Language, "text-word": Language
    }  # fmt: skip
    model = open_bundle(str(bundles["chars"]), check=False)
    assert model.provider == "CPUExecutionProvider"
    assert model.manifest.revision == read_manifest(bundles["chars"]).revision


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_file_cut_short(copy: Callable[[str], Path], name: str, file: str) -> None:
    path = copy(name) / file
    raw = path.read_bytes()
    for length in (0, len(raw) // 2, len(raw) - 2):
        path.write_bytes(raw[:length])
        with pytest.raises(BundleError, match=r"is not JSON|bytes and the manifest says") as caught:
            open_bundle(path.parent)
        assert caught.value.path == str(path)


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_flipped_byte(copy: Callable[[str], Path], name: str, file: str) -> None:
    path = copy(name) / file
    raw = bytearray(path.read_bytes())
    if file == "manifest.json":  # a digit of a digest: a file or the revision no longer fits
        place = raw.index(b'"sha256": "', raw.index(b'"files"')) + 12
    else:
        place = len(raw) // 2
    raw[place] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BundleError, match=r"sha256 differs|does not match its contents") as caught:
        open_bundle(path.parent)
    assert caught.value.path == str(path)


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_missing_file(copy: Callable[[str], Path], name: str, file: str) -> None:
    path = copy(name) / file
    path.unlink()
    with pytest.raises(BundleError, match="cannot be read: No such file") as caught:
        open_bundle(path.parent)
    assert caught.value.path == str(path)
    path.mkdir()
    with pytest.raises(BundleError):
        open_bundle(path.parent)


@pytest.mark.parametrize("name", NAMES)
def test_golden_outputs_that_do_not_come_out(
    copy: Callable[[str], Path], rewrite: Rewrite, name: str
) -> None:
    folder = copy(name)
    manifest = read_manifest(folder)
    [golden] = manifest.golden
    for change, reason in (
        ({"output": ["x", *golden.output[1:]]}, "gives"),
        ({"scores": [score + 0.1 for score in golden.scores]}, "scores"),
        ({"scores": [*golden.scores, 0.0]}, "scores"),
    ):
        wrong = msgspec.structs.replace(golden, **change)
        rewrite(folder, msgspec.structs.replace(manifest, golden=[golden, wrong]))
        with pytest.raises(BundleError, match=f"golden input .* {reason}") as caught:
            open_bundle(folder)
        assert caught.value.path == str(folder / "manifest.json")
        open_bundle(folder, check=False)


@pytest.mark.parametrize("name", ["words", "chars", "text-bpe"])
def test_golden_inputs_that_cannot_be_asked(copy: Callable[[str], Path], rewrite: Rewrite, name: str) -> None:
    folder = copy(name)
    manifest = read_manifest(folder)
    refused = msgspec.structs.replace(manifest.golden[0], input=["☃" * 99])
    rewrite(folder, msgspec.structs.replace(manifest, golden=[refused]))
    with pytest.raises(BundleError, match=r"golden input .* is refused"):
        open_bundle(folder)


def test_near_neighbours_may_swap(copy: Callable[[str], Path], rewrite: Rewrite) -> None:
    """Within the tolerance of the provider, the order of two cosines is nobody's fault."""
    folder = copy("words")
    manifest = read_manifest(folder)
    [golden] = manifest.golden
    first, second, *others = golden.output
    swapped = msgspec.structs.replace(golden, output=[second, first, *others])
    rewrite(folder, msgspec.structs.replace(manifest, golden=[swapped]))
    with pytest.raises(BundleError, match="gives"):
        open_bundle(folder)
    loose = {"CPUExecutionProvider": 2.0}
    rewrite(folder, msgspec.structs.replace(manifest, golden=[swapped], tolerance=loose))
    open_bundle(folder)


@pytest.mark.parametrize(
    ("name", "change", "file", "reason"),
    [
        ("chars", {"level": "word"}, "tokenizer.json", "is of level char and the manifest says word"),
        ("chars", {"special": Special(pad=0, bos=2, eos=1)}, "tokenizer.json", "the manifest says"),
        ("fr-en", {"languages": ["fr"]}, "decoder.onnx", "two languages"),
    ],
)
def test_a_manifest_that_does_not_fit(
    copy: Callable[[str], Path], rewrite: Rewrite, name: str, change: dict[str, Any], file: str, reason: str
) -> None:
    folder = copy(name)
    rewrite(folder, msgspec.structs.replace(read_manifest(folder), **change))
    with pytest.raises(BundleError, match=reason) as caught:
        open_bundle(folder)
    assert caught.value.path == str(folder / file)


def test_files_of_another_bundle(
    copy: Callable[[str], Path], bundles: dict[str, Path], rewrite: Rewrite
) -> None:
    """Hashes that fit are not enough: the graphs and the tokenizer have to be of a kind."""
    folder = copy("chars")
    for source, target, reason in (
        (bundles["fr-en"] / "decoder.onnx", "model.onnx", "needs from an encoder memory.states"),
        (bundles["words"] / "vectors.onnx", "model.onnx", "lacks the output logits"),
        (bundles["text-bpe"] / "model.onnx", "model.onnx", "logits and the tokenizer 12 ids"),
    ):
        shutil.copy(source, folder / target)
        _rehash(folder, rewrite)
        with pytest.raises(BundleError, match=reason) as caught:
            open_bundle(folder)
        assert caught.value.path == str(folder / target)
    words = copy("words")
    shutil.copy(bundles["chars"] / "model.onnx", words / "vectors.onnx")
    _rehash(words, rewrite)
    with pytest.raises(BundleError, match="the graph lacks neighbours, query, scores, topn, weights"):
        open_bundle(words)


def test_a_capacity_has_to_be_stated(copy: Callable[[str], Path], rewrite: Rewrite) -> None:
    folder = copy("chars")
    manifest = read_manifest(folder)
    limits = Limits(prompt_tokens=40, new_tokens=30, context_tokens=8)
    rewrite(folder, msgspec.structs.replace(manifest, limits=limits, golden=[]))
    model = open_bundle(folder)
    assert isinstance(model, Language)
    assert model.stepper.capacity == 8


def _rehash(folder: Path, rewrite: Rewrite) -> None:
    plain = json.loads((folder / "manifest.json").read_bytes())
    for name, record in plain["files"].items():
        raw = (folder / name).read_bytes()
        record.update(sha256=sha256(raw).hexdigest(), size=len(raw))
    rewrite(folder, msgspec.convert(plain, Manifest))
