"""A folder of small true bundles, and a service over it as a child process."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bundle.manifest import TOKENIZER, Decoding, Limits
from bundle.tokenizer import Tokenizer
from tests.bundle.conftest import (
    LINES,
    WORDS,
    _golden,
    _vectors,
    bigram_table,
    write_bundle,
)
from tests.bundle.forms import bigram_graph, build_form, vectors_graph
from training.tokenizer import listed, save, train_tokenizer

HOST = "127.0.0.1"
LETTERS = "abcdefgh"
FRENCH = ["rome", "paris", "gare", "hôtel", "été", "roi", "reine", "homme", "femme", "l'eau"]
SLOW_PRODUCTS = 6000  # a step of the slow model takes some ten milliseconds, of one row or of eight

__all__ = ["FRENCH", "WORDS", "Answered", "Service", "make_bundles", "serve"]


def slow_graph(size: int) -> bytes:
    """A model that never ends and takes its time: letter after letter, beside a long loop of products."""
    rng = np.random.default_rng(7)
    table = rng.normal(size=(size, size)).astype(np.float32)
    table[:, :4] = -1e9  # no special token ever
    turn, _ = np.linalg.qr(rng.normal(size=(64, 64)))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["x", "turn"], ["x_next"]),
        ],
        "product",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_next", TensorProto.FLOAT, None),
        ],
    )
    constants: dict[str, np.ndarray[Any, Any]] = {
        "table": table,
        "embedding": rng.normal(size=(size, 64)).astype(np.float32),
        "turn": turn.astype(np.float32),
        "often": np.array(SLOW_PRODUCTS, np.int64),
        "true": np.array(True),
        "tiny": np.array(1e-12, np.float32),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "last": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["plain"]),
        helper.make_node("Gather", ["embedding", "ids"], ["start"]),
        helper.make_node("Loop", ["often", "true", "start"], ["end"], body=body),
        helper.make_node("Slice", ["end", "first", "second", "last"], ["part"]),
        helper.make_node("Mul", ["part", "tiny"], ["nearly_nothing"]),
        helper.make_node("Add", ["plain", "nearly_nothing"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "time"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", size])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def make_bundles(folder: Path) -> Path:
    """words-{en,fr} chars-en text-{en,fr} fr-en en-fr slow-xx, each with golden answers of its own."""
    scratch = folder / ".scratch"
    scratch.mkdir(parents=True)
    _words(folder / "words-en", *_vectors(), "en")
    table = np.random.default_rng(5).normal(size=(len(FRENCH) + 4, 16)).astype(np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    table[:4] = 0
    _words(folder / "words-fr", FRENCH, table, "fr")
    letters = listed(list("abcdefg "), level="char")
    recurrent = build_form("recurrent", scratch, seed=4)
    write_bundle(
        folder / "chars-en",
        kind="language",
        level="char",
        tokenizer=lambda path: save(letters, path),
        graphs=recurrent.files,
        limits=Limits(prompt_tokens=200, new_tokens=30),
        decoding=Decoding(max_tokens=20),
        golden=_golden,
    )
    for seed, pair in enumerate((("fr", "en"), ("en", "fr")), 1):
        write_bundle(
            folder / "-".join(pair),
            kind="translator",
            level="char",
            tokenizer=lambda path: save(letters, path),
            graphs=build_form("translator", scratch, seed=seed).files,
            languages=pair,
            limits=Limits(prompt_tokens=40, new_tokens=24),
            decoding=Decoding(beam=3),
            golden=_golden,
        )
    for language in ("en", "fr"):
        _text(folder / f"text-{language}", language)
    slow = listed(list(LETTERS), level="char")
    write_bundle(
        folder / "slow-xx",
        kind="language",
        level="char",
        tokenizer=lambda path: save(slow, path),
        graphs={"model.onnx": slow_graph(len(LETTERS) + 4)},
        languages=["xx"],  # a code that the detector does not know: never chosen by itself
        limits=Limits(prompt_tokens=64, new_tokens=4000),
        decoding=Decoding(max_tokens=4000),
    )
    for left in scratch.iterdir():
        left.unlink()
    scratch.rmdir()
    return folder


def _words(folder: Path, words: list[str], table: np.ndarray[Any, Any], language: str) -> None:
    write_bundle(
        folder,
        kind="vectors",
        level="word",
        tokenizer=lambda path: save(listed(words, level="word", lowercase=True), path),
        graphs={"vectors.onnx": vectors_graph(table)},
        languages=[language],
    )


def _text(folder: Path, language: str) -> None:
    folder.mkdir()
    train_tokenizer(LINES * 3, folder / TOKENIZER, level="bpe", size=420)
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    lines = LINES[:3] if language == "en" else LINES[3:]
    write_bundle(
        folder,
        kind="language",
        level="bpe",
        tokenizer=lambda path: None,
        graphs={"model.onnx": bigram_graph(bigram_table(tokenizer, lines))},
        languages=[language],
        limits=Limits(prompt_tokens=64, new_tokens=40),
        golden=_golden,
    )


@dataclass(frozen=True)
class Answered:
    """An answer as it came over the wire; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cache(self) -> str:
        return self.headers["x-cache"]

    def events(self) -> list[tuple[str, Any]]:
        """The server-sent events of a stream."""
        found = []
        for frame in self.body.decode().split("\n\n")[:-1]:
            name, data = frame.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return found


class Service:
    """A service in a process of its own, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Answered:
        """One request on a connection of its own. A dict or list is sent as JSON, bytes as they are."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout)
        sent = dict(headers or {})
        raw = body
        if body is not None and not isinstance(body, bytes):
            raw = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            target = path + ("?" + urlencode(query, doseq=True) if query else "")
            connection.request(method, target, raw, sent)
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answered(answer.status, named, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **query: object) -> Answered:
        return self.ask("GET", path, query=query)

    def post(self, path: str, body: object, **headers: str) -> Answered:
        return self.ask("POST", path, body, headers=headers)

    def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics; 0 where it is not there."""
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        for line in self.get("/metrics").body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            found, _, rest = series.partition("{")
            if found == name and wanted <= set(rest.rstrip("}").split(",")):
                return float(value)
        return 0.0

    def raw(self, request: bytes) -> socket.socket:
        """A connection on which `request` was sent; the answer is the caller's to read, or not."""
        connection = socket.create_connection((HOST, self.port), timeout=10)
        connection.sendall(request)
        return connection

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, which is JSON from the first line to the last."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def serve(models: Path, log: Path, **settings: object) -> Iterator[Service]:
    """A service over a folder of bundles, ready. Settings are named as in `Settings`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VOISIN_")}
    given = {f"VOISIN_{name.upper()}": str(value) for name, value in settings.items()}
    environment = kept | {"VOISIN_MODELS": str(models), "VOISIN_LISTEN_PORT": "0"} | given
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "service"], env=environment, stdout=file, stderr=file
        )
    try:
        yield Service(process, _wait_ready(process, log), log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port from the log, once /health/ready says yes."""
    port = 0
    for _ in range(3000):
        assert process.poll() is None, log.read_text()
        if not port:
            found = [line for line in log.read_text().splitlines() if '"listening"' in line]
            port = int(json.loads(found[0])["url"].rsplit(":", 1)[1]) if found else 0
        elif _is_ready(port):
            return port
        time.sleep(0.01)
    raise AssertionError(log.read_text())


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
