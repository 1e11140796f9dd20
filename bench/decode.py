"""How fast is decoding through a bundle's graphs beside torch eager on the same weights?

The shapes are those of the bundles in the models folder; the weights are random, which changes no speed, and
every answer is made as long as asked. Everything runs on one thread, one text at a time, greedily.
"""

from __future__ import annotations

import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.rounds import Row, interleave, rows
from bundle.decoding import Decoder, Request, run
from bundle.manifest import MANIFEST, TOKENIZER, Form, Manifest, Precision, read_manifest
from bundle.session import Session
from bundle.stepper import Prompt, Stepper
from bundle.tokenizer import Tokenizer
from export.lower import lower
from export.pack import write_graphs
from training.config import recipe_from
from training.models import Language, Model, Translator, build
from training.models.graph import TorchGraph
from training.models.recurrent import RecurrentTranslator

PEER = "torch eager, with state"
NAIVE = "torch eager, all again each token"
PROMPT, NEW = 16, 32
"""Tokens read and tokens written."""


def measure(models: Path, *, rounds: int = 5) -> list[Row]:
    """Tokens a second of every language model and translator of a folder."""
    found: list[Row] = []
    for path in sorted(models.glob(f"*/{MANIFEST}")):
        manifest = read_manifest(path.parent)
        if manifest.kind == "vectors":
            continue
        model = random_model(manifest, Tokenizer.load(path.parent / TOKENIZER).size)
        with tempfile.TemporaryDirectory() as folder:
            values = interleave(sides(model, manifest, Path(folder)), rounds=rounds)
        found += rows(f"{manifest.name}, one text", values, unit="tokens/s", peer=PEER)
    return found


def random_model(manifest: Manifest, vocab: int) -> Model:
    """A module of the shape that a bundle was made from."""
    recipe = recipe_from(tomllib.loads(manifest.provenance.recipe), manifest.name)
    assert recipe.model is not None
    assert recipe.kind != "vectors"
    torch.manual_seed(0)
    return build(recipe.kind, recipe.model, vocab).eval()


def sides(model: Model, manifest: Manifest, folder: Path) -> Mapping[str, Callable[[], float]]:
    """What decodes: torch in two ways, graphs plain and fast. Each call returns tokens a second."""
    translator = isinstance(model, Translator)
    pad, context = manifest.special.pad or 0, manifest.limits.context_tokens
    new = min(NEW, context - PROMPT) if context else NEW
    prompt = _prompt(model, manifest)

    def stepper(step: Session | TorchGraph, encoder: Session | TorchGraph | None) -> Stepper:
        return Stepper(step, encoder, pad=pad, capacity=context)

    steppers = {PEER: stepper(TorchGraph(model), TorchGraph(model, "encode") if translator else None)}
    lowered: list[tuple[str, Precision, Form]] = [
        ("voisin plain fp32", "fp32", "plain"),
        ("voisin plain int8", "int8", "plain"),
    ]
    if not isinstance(model, RecurrentTranslator):
        lowered.append(("voisin fast int8", "int8", "fast"))
    for side, precision, form in lowered:
        place = folder / f"{precision}-{form}"
        place.mkdir()
        write_graphs(place, lower(model, precision, form))
        step = Session(place / ("decoder.onnx" if translator else "model.onnx"))
        encoder = Session(place / "encoder.onnx") if translator else None
        steppers[side] = stepper(step, encoder)
    return {
        **{side: partial(_decode, one, prompt, new, pad) for side, one in steppers.items()},
        NAIVE: partial(_again, model, prompt, new),
    }


def _prompt(model: Model, manifest: Manifest) -> Prompt:
    special = manifest.special
    assert special.bos is not None
    assert special.eos is not None
    ids = tuple(int(i) for i in np.random.default_rng(0).integers(0, model.vocab_size, PROMPT - 1))
    if isinstance(model, Translator):
        return Prompt(ids=(special.bos,), source=(*ids, special.eos))
    return Prompt(ids=(special.bos, *ids))


def _decode(stepper: Stepper, prompt: Prompt, new: int, pad: int) -> float:
    """The serving loop; no token ends it early."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.perf_counter()
    [[answer]] = run(Decoder(stepper, eos=-1, pad=pad), [Request(prompt=prompt, max_tokens=new)])
    seconds = time.perf_counter() - started
    torch.set_num_threads(threads)
    assert len(answer.ids) == new
    return new / seconds


def _again(model: Model, prompt: Prompt, new: int) -> float:
    """The loop of a first tutorial: the whole text through the training form for every token."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ids = list(prompt.ids)
    started = time.perf_counter()
    with torch.inference_mode():
        for _ in range(new):
            ids.append(int(_logits(model, ids, prompt.source)[0, -1].argmax()))
    seconds = time.perf_counter() - started
    torch.set_num_threads(threads)
    return new / seconds


def _logits(model: Model, ids: Sequence[int], source: Sequence[int]) -> torch.Tensor:
    if isinstance(model, Translator):
        return model(torch.tensor([source]), torch.tensor([len(source)]), torch.tensor([ids]))  # type: ignore[no-any-return]
    assert isinstance(model, Language)
    logits, _ = model(torch.tensor([ids]))
    return logits  # type: ignore[no-any-return]
