"""No file from elsewhere is code, and no name in it leads out of its folder."""

from __future__ import annotations

import ast
import hashlib
import http.server
import json
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle.errors import BundleError
from bundle.load import open_bundle
from bundle.manifest import MANIFEST, Manifest, compute_revision, encode
from tests.service.making import HOST, Service
from training.checkpoint import CheckpointError, load
from training.download import fetch
from training.shards import CorpusError

ROOMS = ("bundle", "service", "training", "export")
# Modules whose readers run what they read.
UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "joblib",
    "cloudpickle",
    "shelve",
    "marshal",
    "yaml",
}


def calls(root: Path) -> Iterator[tuple[str, ast.Call, str]]:
    """Every call in the four rooms: file, node, dotted name."""
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    yield f"{path.relative_to(root)}:{node.lineno}", node, ast.unparse(node.func)


def given(node: ast.Call, name: str) -> object:
    for keyword in node.keywords:
        if keyword.arg == name and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    return None


def test_nothing_that_unpickles_is_called(root: Path) -> None:
    """`torch.load` only with weights_only, `np.load` only without pickle, nothing of gensim's `load`."""
    wrong = []
    for place, node, name in calls(root):
        last = name.rpartition(".")[2]
        safe = {
            "torch.load": given(node, "weights_only") is True,
            "np.load": given(node, "allow_pickle") is False,
            "numpy.load": given(node, "allow_pickle") is False,
        }.get(name, True)
        foreign = last in {
            "load_word2vec_format",
            "load_facebook_model",
            "load_facebook_vectors",
            "from_file",
        }
        models = name.startswith(("Word2Vec.", "FastText.", "KeyedVectors.", "Phrases.")) and last == "load"
        if not safe or models or (foreign and "Backend" not in name) or name in {"eval", "exec"}:
            wrong.append(f"{place} {name}")
    assert wrong == []


def test_nothing_that_unpickles_is_imported(root: Path) -> None:
    """`pickle.dumps` may be: word2vec-api's clients want a pickle from us; nobody's pickle is read.

    But for what a process that was forked from the service says to it, and it to that, over a pair of sockets
    which nobody else has an end of.
    """
    forked = root / "service" / "wire.py"
    wrong = []
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names if alias.name != "pickle"]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
                    ours = path == forked and node.attr in ("Pickler", "PicklingError", "loads")
                    names = [] if node.attr == "dumps" or ours else [f"pickle.{node.attr}"]
                wrong += [
                    f"{path.name}: {name}" for name in names if name.partition(".")[0] in UNSAFE_MODULES
                ]
    assert wrong == []


class Payload:
    """Unpickling this makes a file: the proof that something ran."""

    def __init__(self, proof: Path) -> None:
        self._proof = str(proof)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._proof,)


def test_a_checkpoint_that_carries_code(tmp_path: Path) -> None:
    import torch

    proof = tmp_path / "it-ran"
    state = {"model": Payload(proof), "step": 1}
    torch.save(state, tmp_path / "zip.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(state))
    for name in ("zip.pt", "raw.pt"):
        with pytest.raises(CheckpointError):
            load(tmp_path / name)
    assert not proof.exists()
    pickle.loads((tmp_path / "raw.pt").read_bytes())  # the payload does work where it is let
    assert proof.exists()


def forged(folder: Path, **changes: Any) -> None:
    """A manifest with these changes, whose revision fits."""
    manifest = msgspec.convert(msgspec.json.decode((folder / MANIFEST).read_bytes()), Manifest)
    manifest = msgspec.structs.replace(manifest, **changes)
    manifest = msgspec.structs.replace(manifest, revision=compute_revision(manifest))
    (folder / MANIFEST).write_bytes(encode(manifest))


def copy(models: Path, name: str, target: Path) -> Path:
    shutil.copytree(models / name, target / name)
    return target / name


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/b",
        "a/../../secret",
        "./vectors.onnx",
        "manifest.json",
        "\x00",
        "vectors.onnx\x00",  # found by fuzzing: no name of a file, and no OSError either
    ],
)
def test_names_in_a_manifest_stay_in_the_folder(models: Path, tmp_path: Path, name: str) -> None:
    folder = copy(models, "words-en", tmp_path)
    (tmp_path / "secret").write_bytes(b"x")
    plain = json.loads((folder / MANIFEST).read_text())
    manifest = msgspec.convert(plain, Manifest)
    record = next(iter(manifest.files.values()))
    forged(folder, files=manifest.files | {name: record})
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(folder)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "../../secret.bin", "link.bin"])
def test_a_graph_whose_weights_lie_elsewhere(models: Path, tmp_path: Path, location: str) -> None:
    """External data is a path inside an ONNX file: it must not reach out of the bundle."""
    folder = copy(models, "chars-en", tmp_path)
    (tmp_path / "secret.bin").write_bytes(b"\0" * 1024)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    weight = numpy_helper.from_array(np.zeros((4, 12), np.float32), "table")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "time"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", 12])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    raw = model.SerializeToString()
    (folder / "model.onnx").write_bytes(raw)
    manifest = msgspec.convert(msgspec.json.decode((folder / MANIFEST).read_bytes()), Manifest)
    record = msgspec.structs.replace(
        manifest.files["model.onnx"], sha256=hashlib.sha256(raw).hexdigest(), size=len(raw)
    )
    forged(folder, files=manifest.files | {"model.onnx": record}, golden=[])
    with pytest.raises(BundleError):
        open_bundle(folder)


@pytest.mark.parametrize(
    "name",
    ["../words-en", "..%2fwords-en", "/etc", "words-en/../chars-en", "file:///etc/passwd", "http://127.0.0.1:1/x",
     "\\\\host\\share", "words-en\x00", "."],
)  # fmt: skip
def test_the_name_of_a_model_is_no_path(service: Service, name: str) -> None:
    for answer in (
        service.get("/similar", word="king", model=name),
        service.get("/complete", prompt="a", model=name),
        service.post("/translate", {"q": "a", "source": "fr", "target": "en", "model": name}),
        service.post("/v1/embeddings", {"input": "king", "model": name}),
    ):
        assert answer.status in (400, 404)
        assert b"root:" not in answer.body


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Sends everybody on to a file of this machine."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", "file:///etc/passwd")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        return


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://127.0.0.1:1/x", "data:,abc", "/etc/passwd", "x:y"]
)
def test_a_corpus_comes_over_http_or_not_at_all(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOISIN_CORPORA", str(tmp_path / "kept"))
    digest = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()
    with pytest.raises(CorpusError):
        fetch(address, digest)
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


def test_a_redirect_does_not_lead_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOISIN_CORPORA", str(tmp_path / "kept"))
    digest = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()
    with http.server.ThreadingHTTPServer((HOST, 0), Redirecting) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        with pytest.raises(CorpusError):
            fetch(f"http://{HOST}:{server.server_address[1]}/corpus.txt", digest)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/..%2f..%2fetc%2fpasswd", "/%2e%2e/passwd", "/a/../../b/..", "/", ""])
def test_a_fetched_corpus_stays_in_its_folder(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"a corpus\n"

    class Serving(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: object) -> None:
            return

    monkeypatch.setenv("VOISIN_CORPORA", str(tmp_path / "kept"))
    with http.server.ThreadingHTTPServer((HOST, 0), Serving) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            found = fetch(f"http://{HOST}:{server.server_address[1]}{path}", hashlib.sha256(text).hexdigest())
        except CorpusError:
            found = None
        server.shutdown()
        thread.join()
    written = [each.resolve() for each in tmp_path.rglob("*") if each.is_file()]
    assert all(each.is_relative_to((tmp_path / "kept").resolve()) for each in written)
    assert found is None or found.read_bytes() == text
