"""Bundles of word vectors for tests: in clusters, so that words have neighbours, and with equal vectors."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from gensim.models import KeyedVectors
from numpy.typing import NDArray

from bundle.load import open_bundle
from bundle.manifest import TOKENIZER, Precision, read_manifest
from bundle.tokenizer import Tokenizer
from bundle.vectors import Vectors
from export import pack
from export.neighbours import OPERATIONS, write_neighbours
from export.vectors import lower_vectors
from tests.bundle.conftest import write_bundle, write_manifest
from training.tokenizer import listed, save

Floats = NDArray[np.float32]


def draw(count: int, hidden: int, *, seed: int = 0) -> Floats:
    """Vectors of any length in clusters; every tenth is an earlier one, so that cosines tie."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(2, count // 20), hidden))
    rows = centres[rng.integers(len(centres), size=count)] + 0.6 * rng.normal(size=(count, hidden))
    rows *= rng.uniform(0.1, 5.0, size=(count, 1))
    rows[::10] = rows[np.arange(0, count, 10) // 2]
    return rows.astype(np.float32)


def spell(count: int) -> list[str]:
    """Distinct words, many of which begin alike."""
    return [f"{'abcdefgh'[n % 8]}{'xyz'[n % 3]}{n}" for n in range(count)]


def make_words(
    folder: Path, words: list[str], rows: Floats, *, precision: Precision = "int8", width: int = 10,
    language: str = "en", operations: float = OPERATIONS,
) -> Path:  # fmt: skip
    """A bundle as export leaves it; `width` 0: without a table of neighbours."""
    matrix = np.concatenate([np.zeros((4, rows.shape[1]), np.float32), rows])
    write_bundle(
        folder,
        kind="vectors",
        level="word",
        tokenizer=lambda path: save(listed(words, level="word", lowercase=True), path),
        graphs={name: graph.SerializeToString() for name, graph in lower_vectors(matrix, precision).items()},
        languages=[language],
    )
    if width:
        write_neighbours(folder, Tokenizer.load(folder / TOKENIZER), width=width, operations=operations)
    manifest = msgspec.structs.replace(read_manifest(folder), files=pack.records(folder), precision=precision)
    write_manifest(folder, manifest)
    return folder


def opened(folder: Path) -> Vectors:
    model = open_bundle(folder)
    assert isinstance(model, Vectors)
    return model


def gensim_of(model: Vectors) -> KeyedVectors:
    """gensim's own object over the vectors that the bundle holds, the words in their order."""
    words = [word for word in model.tokenizer.words() if word in model]
    keyed = KeyedVectors(model.rows.hidden)
    keyed.add_vectors(words, model.embed(words))
    return keyed
