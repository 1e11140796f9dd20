"""Whole bundles over small true graphs, as export would leave them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bundle.language import CompletionOptions
from bundle.load import open_bundle
from bundle.manifest import (
    GRAPHS,
    MANIFEST,
    TOKENIZER,
    Corpus,
    Decoding,
    FileRecord,
    Golden,
    Kind,
    Level,
    Limits,
    Manifest,
    Provenance,
    compute_revision,
    encode,
)
from bundle.tokenizer import Tokenizer
from bundle.translator import Translator
from bundle.vectors import Vectors
from tests.bundle.forms import CAPACITY, FORMS, Form, bigram_graph, build_form, vectors_graph
from training.tokenizer import listed, save, train_tokenizer


@pytest.fixture(scope="session", params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Form:
    return build_form(request.param, tmp_path_factory.mktemp(request.param))


def write_bundle(
    folder: Path,
    *,
    kind: Kind,
    level: Level,
    tokenizer: Callable[[Path], object],
    graphs: Mapping[str, bytes],
    languages: Sequence[str] = ("en",),
    limits: Limits | None = None,
    decoding: Decoding | None = None,
    golden: Callable[[Any], list[Golden]] | None = None,
) -> Path:
    """A whole bundle as export would leave it, with golden answers of its own if asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(folder / TOKENIZER)
    for name, raw in graphs.items():
        (folder / name).write_bytes(raw)
    manifest = Manifest(
        kind=kind,
        name=folder.name,
        level=level,
        languages=list(languages),
        special=Tokenizer.load(folder / TOKENIZER).special,
        limits=limits or Limits(prompt_tokens=CAPACITY, new_tokens=16),
        decoding=decoding or Decoding(),
        precision="fp32",
        files={
            name: FileRecord(
                sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest(),
                size=(folder / name).stat().st_size,
            )
            for name in (*GRAPHS[kind], TOKENIZER)
        },
        revision="",
        provenance=Provenance(
            commit="0" * 40,
            recipe='kind = "test"',
            corpora=[Corpus(name="none", licence="CC0", attribution="", sha256="0" * 64)],
            libraries={"numpy": np.__version__},
            opset=18,
            parameters=1,
            created="2026-01-01T00:00:00Z",
        ),
    )
    manifest = write_manifest(folder, manifest)
    if golden is not None:
        examples = golden(open_bundle(folder, check=False))
        write_manifest(folder, msgspec.structs.replace(manifest, golden=examples))
    return folder


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write ``manifest`` with the revision that fits it."""
    manifest = msgspec.structs.replace(manifest, revision=compute_revision(manifest))
    (folder / MANIFEST).write_bytes(encode(manifest))
    return manifest


def bigram_table(tokenizer: Tokenizer, lines: Sequence[str]) -> np.ndarray:
    """Logits [vocab, vocab]: how often a token follows another, smoothed by how often it comes at all."""
    special = tokenizer.special
    assert special.bos is not None
    assert special.eos is not None
    counts = np.zeros((tokenizer.size, tokenizer.size))
    for line in lines:
        for before, after in pairwise([special.bos, *tokenizer.encode(line), special.eos]):
            counts[before, after] += 1
    return np.log(counts + 1e-3 * counts.sum(0) + 1e-9).astype(np.float32)


LINES = [
    "the grand hotel is near the station",
    "the grand old man and the grandmother",
    "a grande latte and a grandiose view",
    "le grand hôtel, la grande gare et grandement merci",
    "l'avenir est à l'hôtel, aujourd'hui peut-être",
    "je vais à la gare demain",
    "l'été à l'hôtel près de la gare",
]
WORDS = [
    *("the", "king", "queen", "man", "woman", "rome", "paris", "london", "new_york", "été", "école"),
    *("l'hôtel", "apple", "pear", "river", "house", "kings", "queens", "men", "women", "roman"),
]


def _vectors() -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(3)
    table = rng.normal(size=(len(WORDS) + 4, 16))
    place = {word: id for id, word in enumerate(WORDS, 4)}
    royal, female = rng.normal(size=(2, 16)) * 3
    person = rng.normal(size=16) * 3
    for word, parts in {
        "king": royal + person, "queen": royal + person + female, "man": person, "woman": person + female
    }.items():  # fmt: skip
        table[place[word]] = parts + rng.normal(size=16) * 0.05
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    table[:4] = 0
    return WORDS, table.astype(np.float32)


def _golden(model: Any) -> list[Golden]:
    if isinstance(model, Vectors):
        found = model.most_similar(["king"], topn=5)
        return [Golden(input=["king"], output=[word for word, _ in found], scores=[one for _, one in found])]
    if isinstance(model, Translator):
        answer = model.translate("abc de")
        return [Golden(input=["abc de"], output=[answer.text], scores=[answer.score])]
    options = CompletionOptions(max_tokens=16, beam=1, temperature=0.0)
    [completion] = model.complete("ab", options)
    return [Golden(input=["ab"], output=[completion.text], scores=[completion.logprob])]


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One bundle of each kind and level, by name; tests that damage one copy it first."""
    folder = tmp_path_factory.mktemp("bundles")
    words, table = _vectors()
    write_bundle(
        folder / "words",
        kind="vectors",
        level="word",
        tokenizer=lambda path: save(listed(words, level="word", lowercase=True), path),
        graphs={"vectors.onnx": vectors_graph(table)},
        golden=_golden,
    )
    letters = listed(list("abcdefg "), level="char")
    recurrent = build_form("recurrent", tmp_path_factory.mktemp("graphs"), seed=4)
    write_bundle(
        folder / "chars",
        kind="language",
        level="char",
        tokenizer=lambda path: save(letters, path),
        graphs=recurrent.files,
        limits=Limits(prompt_tokens=40, new_tokens=30),
        decoding=Decoding(max_tokens=20),
        golden=_golden,
    )
    translator = build_form("translator", tmp_path_factory.mktemp("graphs"), seed=1)
    write_bundle(
        folder / "fr-en",
        kind="translator",
        level="char",
        tokenizer=lambda path: save(letters, path),
        graphs=translator.files,
        languages=["fr", "en"],
        limits=Limits(prompt_tokens=12, new_tokens=10),
        decoding=Decoding(beam=3),
        golden=_golden,
    )
    for level in ("bpe", "word"):
        target = folder / f"text-{level}"
        target.mkdir()
        train_tokenizer(LINES * 3, target / TOKENIZER, level=level, size=420 if level == "bpe" else 0)
        tokenizer = Tokenizer.load(target / TOKENIZER)
        write_bundle(
            target,
            kind="language",
            level=level,
            tokenizer=lambda path: None,
            graphs={"model.onnx": bigram_graph(bigram_table(tokenizer, LINES))},
            limits=Limits(prompt_tokens=64, new_tokens=40),
            golden=_golden,
        )
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def opened(bundles: dict[str, Path]) -> dict[str, Any]:
    return {name: open_bundle(path) for name, path in bundles.items()}


@pytest.fixture(scope="session")
def rewrite() -> Callable[[Path, Manifest], Manifest]:
    """Write a manifest with the revision that fits it."""
    return write_manifest
