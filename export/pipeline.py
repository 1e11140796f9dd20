"""The whole of an export, in its order: rebuild, lower, verify, golden examples, card, rename."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx
from msgspec import UNSET

from bundle.errors import InvalidRequest
from bundle.lexicon import LEXICON, Lexicon
from bundle.load import open_bundle
from bundle.manifest import FAST_GRAPHS, GRAPHS, TOKENIZER, Check, Form, Golden, Manifest, Precision
from bundle.session import Place, Session
from bundle.stepper import Prompt
from bundle.tokenizer import Tokenizer
from bundle.vectors import Vectors
from export import ExportError, pack
from export.card import write_card
from export.defaults import decoding, limits, subwords
from export.golden import golden
from export.lower import lower
from export.neighbours import WIDTH, write_neighbours
from export.quantize import round_weights
from export.speed import measure
from export.vectors import lower_vectors
from export.verify import Subject, require, verify_steps
from export.verify_vectors import verify_vectors
from export.verify_whole import verify_whole
from training.checkpoint import RECIPE, load_model
from training.config import Recipe, encode_recipe, load_recipe
from training.models import Model, count_parameters
from training.word2vec import load_ngrams, load_run

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

Forms = Literal["plain", "fast", "both"]
"""Which graphs a bundle has; weights that both forms hold are stored once."""


@dataclass(frozen=True)
class Report:
    """What an export made."""

    folder: Path
    manifest: Manifest

    def __str__(self) -> str:
        manifest = self.manifest
        size = sum(record.size for record in manifest.files.values())
        head = (
            f"{self.folder}: {manifest.kind} {manifest.name}, {manifest.provenance.parameters:,} parameters, "
            f"{manifest.precision}, {size / 1e6:.2f} MB, revision {manifest.revision}"
        )
        checks = [
            f"  {name:<26} {check.observed:>8.2g} <= {check.bound:g}"
            for name, check in sorted(manifest.parity.items())
        ]
        return "\n".join([head, *checks])


def export_run(
    run: Path,
    target: Path,
    *,
    precision: Precision = "fp32",
    force: bool = False,
    name: str = "",
    neighbours: int = WIDTH,
    form: Forms = "plain",
) -> Report:
    """Makes the bundle `target` of a run folder, or leaves everything as it was.

    name: what the bundle is called; its folder's name where empty.
    neighbours: of word vectors, how many of each word are found now, to be looked up when asked for.
    form: of the graphs, see `export.lower`; word vectors have one form.

    Raises:
        ExportError: `target` may not be replaced, or the graphs do not do what the trained model does.
        VoisinError: a file of the run is missing or damaged.
    """
    target = Path(os.path.abspath(target))  # `.` has no name
    pack.refuse(target, force=force)
    recipe = load_recipe(run / RECIPE, expand=False)
    corpora = pack.read_corpora(run)
    before = pack.read_scores(target) if target.exists() else {}
    with pack.staged(target, force=force) as folder:
        kept = recipe.vectors.kept if recipe.vectors else 0
        write_tokenizer(run / TOKENIZER, folder / TOKENIZER, kept=kept)
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        try:
            if recipe.kind == "vectors":
                candidate = _vectors(run, precision)
            else:
                candidate = _steps(run, recipe, tokenizer, precision, form)
        except ValueError as error:  # weights that are no numbers, or beyond the precision
            raise ExportError(f"{run}: {error}") from error
        bounds = limits(recipe)
        manifest = Manifest(
            kind=recipe.kind,
            name=name or target.name,
            level=tokenizer.level,
            languages=recipe.languages,
            special=tokenizer.special,
            limits=bounds,
            decoding=decoding(recipe, bounds),
            precision=precision,
            form=UNSET if form == "plain" or recipe.kind == "vectors" else form,
            subwords=subwords(recipe),
            files={},
            revision="",
            provenance=pack.provenance(
                recipe=encode_recipe(recipe),
                corpora=corpora,
                opset=pack.write_graphs(folder, candidate.graphs),
                parameters=candidate.parameters,
            ),
            tolerance=pack.TOLERANCE,
        )
        if recipe.kind == "vectors":
            write_neighbours(folder, tokenizer, width=neighbours)
        if recipe.kind == "language" and (run / LEXICON).exists():
            Lexicon.load(run / LEXICON)
            shutil.copyfile(run / LEXICON, folder / LEXICON)
        manifest = pack.finished(manifest, folder)
        checks = candidate.verify(folder, manifest)
        require(checks)
        manifest = _answered(folder, msgspec.structs.replace(manifest, parity=checks), recipe)
        _describe(folder, manifest, before)
    return Report(target, manifest)


def write_tokenizer(source: Path, target: Path, *, kept: int = 0) -> None:
    """Copies a tokenizer without the blanks of its layout, and with its first `kept` ids only (0 = all).

    Raises ExportError where it is missing or not JSON.
    """
    try:
        plain = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{source}: {error.strerror}") from error
    except ValueError as error:
        raise ExportError(f"{source}: {error}") from error
    if kept:
        vocab: dict[str, int] = plain["model"]["vocab"]
        plain["model"]["vocab"] = {token: index for token, index in vocab.items() if index < kept}
    target.write_text(json.dumps(plain, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def _answered(folder: Path, manifest: Manifest, recipe: Recipe) -> Manifest:
    """Adds the golden examples and proves that the whole opens with them."""
    pack.write_manifest(folder, manifest)

    def answers(form: Form | None) -> list[Golden]:
        # every reader has onnxruntime; our kernels are allowed to round a little otherwise
        model = open_bundle(folder, device=Place(kernels=False), check=False, form=form)
        return golden(model, recipe.train.samples)

    if manifest.form == "both":
        found = {"golden": answers("plain"), "golden_fast": answers("fast")}
    else:
        found = {"golden": answers(None)}
    manifest = msgspec.structs.replace(manifest, **found)
    pack.write_manifest(folder, manifest)
    return manifest


def _describe(folder: Path, manifest: Manifest, before: Mapping[str, object]) -> None:
    """Scores and card. Scores of an older bundle of the same revision are still true."""
    scores = dict(before) if before.get("revision") == manifest.revision else {}
    scores |= {"revision": manifest.revision, "speed": msgspec.to_builtins(measure(open_bundle(folder)))}
    pack.write_scores(folder, scores)
    write_card(folder, manifest)


@dataclass(frozen=True)
class Candidate:
    """Graphs that still have to prove themselves."""

    graphs: Mapping[str, onnx.ModelProto]
    parameters: int
    verify: Callable[[Path, Manifest], dict[str, Check]]
    """The checks of the graphs as they lie in a folder with that manifest."""


def _steps(run: Path, recipe: Recipe, tokenizer: Tokenizer, precision: Precision, form: Forms) -> Candidate:
    """A language model or a translator."""
    model, _ = load_model(run)
    assert isinstance(model, Model)
    stored = copy.deepcopy(model)
    round_weights(stored, precision)
    forms: tuple[Form, ...] = ("plain", "fast") if form == "both" else (form,)
    # where both stand side by side, the fast ones have names of their own
    plain = GRAPHS[recipe.kind]
    names = {
        each: dict(
            zip(plain, FAST_GRAPHS[recipe.kind] if len(forms) > 1 and each == "fast" else plain, strict=True)
        )
        for each in forms
    }
    graphs = {
        names[each][name]: graph for each in forms for name, graph in lower(model, precision, each).items()
    }

    def verify(folder: Path, manifest: Manifest) -> dict[str, Check]:
        samples = sample_prompts(recipe, tokenizer, manifest)
        checks: dict[str, Check] = {}
        for each in forms:
            subject = Subject(
                kind=recipe.kind,
                trained=model,
                rounded=stored,
                graphs={name: folder / file for name, file in names[each].items()},
                precision=precision,
                special=manifest.special,
                limits=manifest.limits,
                form=each,
            )
            verified = verify_whole if each == "fast" and precision == "int8" else verify_steps
            found = verified(subject, samples, vocab=tokenizer.size, seed=recipe.seed)
            mark = "fast_" if each == "fast" and len(forms) > 1 else ""
            checks |= {f"{mark}{check}": result for check, result in found.items()}
        return checks

    return Candidate(graphs, count_parameters([model]), verify)


def sample_prompts(recipe: Recipe, tokenizer: Tokenizer, manifest: Manifest) -> list[Prompt]:
    """The recipe's samples as prompts, as long as the limits allow; what cannot be spelt is left out."""
    bos, eos = manifest.special.bos, manifest.special.eos
    prompts = []
    for text in recipe.train.samples:
        try:
            ids = tokenizer.encode(text)[: manifest.limits.prompt_tokens - 1]
        except InvalidRequest:
            continue
        if bos is None or eos is None:
            continue
        prompts.append(Prompt((bos,), (*ids, eos)) if recipe.kind == "translator" else Prompt((bos, *ids)))
    return prompts


def _vectors(run: Path, precision: Precision) -> Candidate:
    """Word vectors."""
    words, matrix, _ = load_run(run)
    ngrams = load_ngrams(run)

    def verify(folder: Path, manifest: Manifest) -> dict[str, Check]:
        pack.write_manifest(folder, manifest)
        model = open_bundle(folder, check=False)
        assert isinstance(model, Vectors)
        return verify_vectors(
            model, words, matrix, precision, ngrams=ngrams, graph=Session(folder / GRAPHS["vectors"][0])
        )

    rows = int(np.any(matrix, axis=1).sum()) + (0 if ngrams is None else len(ngrams))
    return Candidate(lower_vectors(matrix, precision, ngrams), rows * matrix.shape[1], verify)
