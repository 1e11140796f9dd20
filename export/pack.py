"""A bundle on disk: staged beside its final name, synced, proved to open, renamed. Never half a bundle."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec
import onnx
from onnx.external_data_helper import set_external_data

from bundle.manifest import (
    CARD,
    MANIFEST,
    SCORES,
    TOKENIZER,
    Corpus,
    FileRecord,
    Manifest,
    Provenance,
    compute_revision,
    encode,
    graph_names,
    least_format,
)
from export import ExportError

LIBRARIES = ("torch", "gensim", "onnx", "onnxruntime", "numpy", "tokenizers")
"""Whose versions the manifest records."""

TOLERANCE = {"CPUExecutionProvider": 1e-3, "CUDAExecutionProvider": 5e-2}
"""Largest difference of a golden score by execution provider: instruction sets sum in different orders, and
CUDA multiplies in TF32."""

_UNHASHED = (MANIFEST, CARD, SCORES)
_PROTOBUF_LIMIT = 2_000_000_000
_SHARED_FROM = 4096  # bytes; smaller weights are not worth a second place to look
_ALIGNMENT = 64
SHARED = "shared.bin"
"""Weights that several graphs of one bundle have in common."""


@contextmanager
def staged(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder beside `target` that takes its place when the block ends, and vanishes when it raises.

    Raises ExportError where `target` exists, unless `force` and it is a bundle (or an empty folder).
    """
    refuse(target, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        sync([*folder.iterdir(), folder])
        _swap(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse(target: Path, *, force: bool) -> None:
    """Raises ExportError where `target` must not be replaced."""
    if not target.exists():
        return
    if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).is_file()):
        raise ExportError(f"{target}: exists and is not a bundle; it is never replaced")
    if not force:
        raise ExportError(f"{target}: exists; --force replaces it")


def _swap(folder: Path, target: Path) -> None:
    """A folder cannot be renamed over one that is not empty: the old bundle steps aside first."""
    aside = None
    if target.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        target.rename(aside / target.name)
    try:
        folder.rename(target)
    except OSError:
        if aside is not None:
            (aside / target.name).rename(target)
        raise
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    sync([target.parent])


def sync(paths: Iterable[Path]) -> None:
    """Waits until files and folders have reached the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_graphs(folder: Path, graphs: Mapping[str, onnx.ModelProto]) -> int:
    """Writes the graphs, the same bytes for the same graph, and returns their opset.

    What two graphs have in common, such as an embedding of both languages, is stored once, in `shared.bin`.
    Weights beyond protobuf's 2 GB go into `NAME.onnx.data` beside the graph.
    """
    opsets = set()
    graphs = _share(folder / SHARED, graphs)
    for name, model in graphs.items():
        opsets |= {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
        path = folder / name
        if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < _PROTOBUF_LIMIT:
            path.write_bytes(model.SerializeToString(deterministic=True))
        else:
            onnx.save_model(model, path, save_as_external_data=True, location=f"{name}.data")
    if len(opsets) != 1:
        raise ExportError(f"graphs of one bundle use one opset, not {sorted(opsets)}")
    return int(opsets.pop())


def _share(path: Path, graphs: Mapping[str, onnx.ModelProto]) -> Mapping[str, onnx.ModelProto]:
    """Moves equal large weights of several graphs into one file, and returns graphs that point to it."""
    seen = Counter(
        tensor.raw_data
        for model in graphs.values()
        for tensor in {tensor.raw_data: tensor for tensor in model.graph.initializer}.values()
        if len(tensor.raw_data) >= _SHARED_FROM
    )
    offsets: dict[bytes, int] = {}
    end = 0
    for data, graphs_with_it in seen.items():
        if graphs_with_it > 1:
            offsets[data] = end
            end += -(-len(data) // _ALIGNMENT) * _ALIGNMENT
    if not offsets:
        return graphs
    with path.open("wb") as file:
        for data, offset in offsets.items():
            file.seek(offset)
            file.write(data)
    pointing = {}
    for name, original in graphs.items():
        model = onnx.ModelProto()
        model.CopyFrom(original)
        for tensor in model.graph.initializer:
            data = tensor.raw_data
            if data in offsets:
                set_external_data(tensor, SHARED, offset=offsets[data], length=len(data))
                tensor.ClearField("raw_data")
        pointing[name] = model
    return pointing


def records(folder: Path) -> dict[str, FileRecord]:
    """Digest and size of every file that the revision and the reader's checks look at."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name not in _UNHASHED:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[path.name] = FileRecord(sha256=digest, size=path.stat().st_size)
    return found


def finished(manifest: Manifest, folder: Path) -> Manifest:
    """`manifest` with the records of the files in `folder` and the revision that follows."""
    recorded = records(folder)
    for name in (*graph_names(manifest), TOKENIZER):
        if name not in recorded:
            raise ExportError(f"{name} is missing from the staged bundle")
    manifest = msgspec.structs.replace(manifest, files=recorded, format=least_format(manifest))
    return msgspec.structs.replace(manifest, revision=compute_revision(manifest))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `manifest.json`."""
    (folder / MANIFEST).write_bytes(encode(manifest))


def write_scores(folder: Path, scores: Mapping[str, object]) -> None:
    """Writes `scores.json`, whole or not at all."""
    replace_text(
        folder / SCORES,
        msgspec.json.format(msgspec.json.encode(scores, order="sorted"), indent=2).decode() + "\n",
    )


def read_scores(folder: Path) -> dict[str, object]:
    """`scores.json`, empty where there is none."""
    path = folder / SCORES
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise ExportError(f"{path}: {error}") from error


def replace_text(path: Path, text: str) -> None:
    """Writes a small file in place of an older one, whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text, encoding="utf-8")
        sync([beside])
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def provenance(*, recipe: str, corpora: list[Corpus], opset: int, parameters: int) -> Provenance:
    """Where the weights come from, as of now and of this tree."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Provenance(
        commit=commit(),
        recipe=recipe,
        corpora=corpora,
        libraries=versions,
        opset=opset,
        parameters=parameters,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def commit() -> str:
    """The commit of the tree that exports, with `-dirty` where it was changed since; empty outside git."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--verify", "--quiet", "HEAD")
    return head + "-dirty" if head and git("status", "--porcelain", "--untracked-files=no") else head


def read_corpora(run: Path) -> list[Corpus]:
    """`corpora.json` of a run folder. Raises ExportError where it is missing or not as it should be."""
    path = run / "corpora.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Corpus])
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ExportError(f"{path}: {error}") from error
