"""`python -m export.unpack BUNDLE RUN`: a run folder with the weights of a bundle, to train on from.

The run that made a bundle may be long gone, or somebody else's. Its plain graphs hold every weight of the
module, cut, turned and stacked as the graph wants them. Where each number went is not written down a second
time here: a module whose weights are their own places is lowered as the bundle was, and the graph that comes
out says of each of its numbers where it belongs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from bundle.errors import VoisinError
from bundle.lexicon import LEXICON
from bundle.load import open_bundle
from bundle.manifest import GRAPHS, TOKENIZER, Manifest
from bundle.tokenizer import Tokenizer
from export import ExportError
from export.lower import lower
from export.pack import sync
from training import checkpoint
from training.config import Recipe, encode_recipe, load_recipe
from training.models import Model, build

_EXACT = 2**24  # whole numbers up to here are float32 numbers


def unpack(bundle: Path, run: Path) -> Recipe:
    """Makes the run folder `run` of a bundle: recipe, tokenizer, known words, corpora and weights.

    Weights are those that the bundle computes with: of an int8 bundle the rounded ones. What only training
    needs (the optimiser's state, the place in the corpus) is not in a bundle.

    Returns:
        The recipe of the run; its `start` names the bundle.

    Raises:
        ExportError: `run` exists, or the bundle holds word vectors or fast graphs only.
        VoisinError: the bundle is damaged, or its recipe is none of ours.
    """
    if run.exists() and any(run.iterdir()):
        raise ExportError(f"{run}: exists; unpack into a folder of its own")
    manifest = open_bundle(bundle).manifest  # with every check
    if manifest.kind == "vectors":
        raise ExportError(f"{bundle}: word vectors are trained anew, not on from a bundle")
    if manifest.form == "fast":
        raise ExportError(f"{bundle}: holds fast graphs only; weights are read from plain ones")
    tokenizer = Tokenizer.load(bundle / TOKENIZER)
    run.mkdir(parents=True, exist_ok=True)
    recipe = _recipe(manifest, run)
    assert recipe.model is not None
    assert recipe.kind != "vectors"
    model = build(recipe.kind, recipe.model, tokenizer.size)
    load_weights(model, {name: onnx.load(bundle / name) for name in GRAPHS[manifest.kind]})
    for name in (TOKENIZER, LEXICON):
        if (bundle / name).exists():
            shutil.copyfile(bundle / name, run / name)
    corpora = msgspec.json.encode(manifest.provenance.corpora)
    (run / "corpora.json").write_bytes(msgspec.json.format(corpora, indent=2) + b"\n")
    state = {"model": model.state_dict(), "recipe": encode_recipe(recipe), "step": 0}
    checkpoint.save(run / checkpoint.CHECKPOINTS / checkpoint.BEST, state)
    sync([*run.iterdir(), run])
    return recipe


def load_weights(model: Model, graphs: dict[str, onnx.ModelProto]) -> None:
    """Sets the parameters of a module to what its plain graphs, by file name, hold.

    Raises:
        ExportError: the graphs are not of such a module, or lack some of its weights.
    """
    parameters = list(model.parameters())
    wide = max(parameter.numel() for parameter in parameters)
    if wide > _EXACT:
        raise ExportError(f"a matrix of {wide:,} numbers is too large to be traced (at most {_EXACT:,})")
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.fill_(number)
        owners = _initializers(lower(model))
        for parameter in parameters:
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter))
        places = _initializers(lower(model))
    found = [np.full(parameter.numel(), np.nan, np.float32) for parameter in parameters]
    for name, graph in graphs.items():
        for weight, values in _restored(graph).items():
            owner, place = owners.get((name, weight)), places.get((name, weight))
            if owner is None or place is None or owner.shape != values.shape:
                raise ExportError(f"{name}: {weight} {list(values.shape)} is no weight of such a model")
            for number in np.unique(owner).astype(int):
                own = owner == number
                found[number][place[own].astype(np.int64)] = values[own]
    for (label, parameter), values in zip(model.named_parameters(), found, strict=True):
        if np.isnan(values).any():
            raise ExportError(f"{label} is not in the graphs, or not all of it")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values).view_as(parameter))


def _initializers(graphs: dict[str, onnx.ModelProto]) -> dict[tuple[str, str], NDArray[Any]]:
    """What the graphs of `lower` store, by file and name."""
    return {
        (file, tensor.name): numpy_helper.to_array(tensor)
        for file, graph in graphs.items()
        for tensor in graph.graph.initializer
    }


def _restored(graph: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The float32 weights of a graph by name: without its constants, int8 matrices times their scales."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    axes = {
        node.input[0]: next(attribute.i for attribute in node.attribute if attribute.name == "axis")
        for node in graph.graph.node
        if node.op_type == "DequantizeLinear"
    }
    found = {}
    for name, array in arrays.items():
        if name.startswith("constant_") or name.endswith((".scale", ".frequencies")):
            continue
        if array.dtype == np.int8:
            scales = arrays[f"{name}.scale"]
            shape = (1, -1) if axes.get(name, 0) == 1 else (-1, 1)
            found[name] = array.astype(np.float32) * scales.reshape(shape)
        else:
            found[name] = array.astype(np.float32)
    return found


def _recipe(manifest: Manifest, run: Path) -> Recipe:
    """The bundle's recipe, which says from now on where its weights come from; written into `run`."""
    path = run / checkpoint.RECIPE
    path.write_text(manifest.provenance.recipe, encoding="utf-8")
    recipe = load_recipe(path, expand=False)
    recipe = msgspec.structs.replace(recipe, start=f"{manifest.name} {manifest.revision}")
    path.write_text(encode_recipe(recipe), encoding="utf-8")
    return recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """0: unpacked; 1: not, for the reason told."""
    parser = argparse.ArgumentParser(
        prog="python -m export.unpack",
        description="Make a run folder of a bundle, for `voisin-train RECIPE --start RUN` to go on from.",
    )
    parser.add_argument("bundle", type=Path, help="bundle of a language model or a translator")
    parser.add_argument("run", type=Path, help="folder to make")
    options = parser.parse_args(arguments)
    try:
        recipe = unpack(options.bundle, options.run)
    except (VoisinError, OSError) as error:
        print(f"export.unpack: {error}", file=sys.stderr)
        return 1
    print(f"{options.run}: {recipe.kind} {recipe.name}, weights of {recipe.start}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
