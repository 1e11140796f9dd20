"""Run folders as training leaves them, with random weights: what export does to a model, it does to any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from bundle.tokenizer import Tokenizer
from training import checkpoint
from training.config import Kind, Recipe, VectorsConfig, encode_recipe, recipe_from
from training.corpus import Digest
from training.models import build
from training.tokenizer import listed, save

LETTERS = "abcdefghijklmnopqrstuvwxyz .,"

MakeRun = Callable[..., Path]
"""`make_run(kind, architecture, seed=..., scale=..., **model)` -> run folder."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(kind: Kind, model: dict[str, object], **more: object) -> Recipe:
    columns = ["fr", "en"] if kind == "translator" else []
    source = {
        "path": "text",
        "name": "Made up",
        "licence": "CC0",
        "attribution": "nobody",
        "columns": columns,
    }
    tree: dict[str, object] = {
        "kind": kind,
        "name": kind,
        "languages": ["fr", "en"] if kind == "translator" else ["en"],
        "corpus": {"sources": [source], "held_out": 0.0},
        "tokenizer": {"level": "word" if kind == "vectors" else "char"},
        "train": {"sequence": 48, "max_tokens": 40, "samples": ["the sea", "a house."]},
    }
    if model:
        tree["model"] = model
    return recipe_from(tree | more)


def write_common(folder: Path, made: Recipe) -> None:
    folder.mkdir(parents=True)
    (folder / checkpoint.RECIPE).write_text(encode_recipe(made), encoding="utf-8")
    digests = [Digest("Made up", "CC0", "nobody", "0" * 64)]
    (folder / "corpora.json").write_bytes(msgspec.json.encode(digests))


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    def make(
        kind: Kind = "language",
        architecture: str = "lstm",
        *,
        seed: int = 0,
        scale: float | None = None,
        **model: object,
    ) -> Path:
        # fresh weights give nearly level logits, on which any two models agree; larger ones than these make a
        # Transformer's attention so sharp that no two orders of addition agree
        factor = scale if scale is not None else 1.25 if architecture == "transformer" else 2.0
        shape: dict[str, object] = {"architecture": architecture, "layers": 2, "hidden": 32, "heads": 4}
        made = recipe(kind, shape | model)
        folder = tmp_path_factory.mktemp("run") / kind
        write_common(folder, made)
        save(listed(list(LETTERS), level="char"), folder / checkpoint.TOKENIZER)
        torch.manual_seed(seed)
        assert made.model is not None
        assert made.kind != "vectors"
        module = build(made.kind, made.model, Tokenizer.load(folder / checkpoint.TOKENIZER).size)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(factor)
        state = {"model": module.state_dict(), "recipe": encode_recipe(made), "step": 0}
        checkpoint.save(folder / checkpoint.CHECKPOINTS / checkpoint.BEST, state)
        return folder

    return make


@pytest.fixture
def vectors_run(tmp_path: Path) -> Path:
    """Random vectors for 300 words w0, w1..., after four rows of zeros."""
    config = msgspec.to_builtins(VectorsConfig(size=16))
    folder = tmp_path / "run-vectors"
    made = recipe("vectors", {}, vectors=config, train={"samples": ["w7", "unheard-of"]})
    write_common(folder, made)
    save(listed([f"w{i}" for i in range(300)], level="word", lowercase=True), folder / checkpoint.TOKENIZER)
    table = np.random.default_rng(0).normal(size=(304, 16)).astype(np.float32)
    table[:4] = 0
    np.save(folder / "vectors.npy", table)
    return folder
