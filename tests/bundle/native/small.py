"""Small models whose graphs the kernels run, and what is fed to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bundle.native import PROVIDER, StepKernels, open_native
from bundle.stepper import Prompt, Stepper
from export.lower import lower
from export.pack import write_graphs
from training.models import build
from training.models.config import ModelConfig

VOCAB, EOS, PAD = 480, 2, 0
SINES: dict[str, Any] = {"architecture": "transformer", "positions": "sinusoidal"}
LEARNED: dict[str, Any] = {"architecture": "transformer", "positions": "learned", "max_positions": 48}
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "language": ("language", {**LEARNED, "layers": 2, "tied": True}),
    "language, two heads": ("language", {**SINES, "layers": 2, "activation": "gelu", "heads": 2}),
    "translator": ("translator", {**SINES, "layers": 2, "tied": True}),
    "translator, one head": ("translator", {**LEARNED, "layers": 2, "activation": "gelu", "heads": 1}),
    "lstm": ("language", {"architecture": "lstm", "layers": 2, "embedding": 32}),
}
"""Kinds, and what their models are like; all of them are 64 wide."""


def written(name: str, folder: Path) -> Path:
    """The folder, with the fast int8 graphs of a shape."""
    kind, wishes = SHAPES[name]
    torch.manual_seed(7)
    model = build(kind, ModelConfig(hidden=64, **wishes), VOCAB).eval()
    if name == "lstm":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)  # fresh weights settle where all tokens are equally likely
    write_graphs(folder, lower(model, "int8", "fast"))
    return folder


def stepper(folder: Path, opened: Callable[[Path], Any]) -> Stepper:
    names = sorted(path.name for path in folder.glob("*.onnx"))
    graphs = {name: opened(folder / name) for name in names}
    step = graphs.get("decoder.onnx") or graphs["model.onnx"]
    return Stepper(step, graphs.get("encoder.onnx"), pad=PAD)


def prompts(of: Stepper, count: int, seed: int = 0) -> list[Prompt]:
    rng = np.random.default_rng(seed)

    def words(longest: int) -> tuple[int, ...]:
        return tuple(int(id) for id in rng.integers(4, VOCAB, rng.integers(1, longest)))

    translates = of._encoder is not None
    return [Prompt((1, *words(9)), (*words(40), EOS) if translates else ()) for _ in range(count)]


def opened(path: Path) -> StepKernels:
    found = open_native(path)
    assert found is not None
    assert found.provider == PROVIDER
    return found  # type: ignore[return-value]


def feeds(of: StepKernels, rows: int = 2) -> dict[str, NDArray[Any]]:
    sizes = {"batch": rows, "time": 2, "capacity": 8, "picked": 1, "source": 4}
    found = {}
    for name, spec in of.inputs.items():
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in spec.axes]
        found[name] = np.zeros(shape, spec.dtype)  # type: ignore[arg-type]
    found["ids"] += 5
    found["counts"] += 2
    if "source_counts" in found:
        found["source_counts"] += 3
    return found


def step_graph(folder: Path) -> Path:
    """The file of the step graph."""
    return next(path for path in folder.glob("*.onnx") if path.name != "encoder.onnx")
