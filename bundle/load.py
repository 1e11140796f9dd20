"""Opening a bundle: every check first, then the plain object that answers."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path

from bundle.completion import CompletionOptions
from bundle.errors import BundleError, InvalidRequest, UnknownWord
from bundle.language import Language
from bundle.lexicon import LEXICON, Lexicon
from bundle.manifest import (
    FAST_GRAPHS,
    GRAPHS,
    MANIFEST,
    TOKENIZER,
    FileRecord,
    Form,
    Golden,
    Manifest,
    read_manifest,
)
from bundle.native import PROVIDER, Kernels, open_native
from bundle.neighbours import NEIGHBOURS, Neighbours
from bundle.rows import Rows
from bundle.session import Device, Session, may_use_gpu, place_of
from bundle.stepper import Stepper
from bundle.stored import read_stored
from bundle.tokenizer import Tokenizer
from bundle.translator import Translator
from bundle.vectors import Vectors, check_contract

GOLDEN_TOKENS = 16
_TIE = 1e-6  # cosines so near each other that another machine may order them otherwise
TOLERANCE = 1e-3  # of a golden score, where the manifest states none for the provider
_KERNELS_TOLERANCE = 0.01  # they add in another order, and a number between two whole ones may go either way

Model = Vectors | Language | Translator
Opened = Session | Kernels


def open_graph(path: Path, *, device: Device = "cpu", threads: int = 1) -> Opened:
    """A graph run by our own kernels where they know it and may run it, else by onnxruntime.

    Raises:
        BundleError: see :class:`bundle.session.Session`.
    """
    place = place_of(device)
    if place.kernels and threads == 1 and not place.resident and not may_use_gpu(device):
        found = open_native(path)
        if found is not None:
            return found
    return Session(path, device=device, threads=threads)


def open_bundle(
    path: str | PathLike[str],
    *,
    device: Device = "cpu",
    threads: int = 1,
    check: bool = True,
    form: Form | None = None,
) -> Model:
    """Open a bundle folder.

    Args:
        device: see :class:`bundle.session.Session`.
        threads: intra-op threads of each graph.
        check: compare the golden outputs. The hashes are always compared. Where our own kernels do not give
            the golden outputs, onnxruntime runs the bundle.
        form: which graphs of a bundle that has both forms; None = the fast ones on a CPU, the plain ones
            elsewhere.

    Raises:
        ValueError: the bundle has not the form asked for.
        BundleError: anything of ``docs/bundle-format.md``, "What a reader refuses", with file and reason.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for name, record in manifest.files.items():
        _check_file(folder / name, record)
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    _check_tokenizer(folder / TOKENIZER, tokenizer, manifest)
    if form is not None and manifest.form != "both" and form != (manifest.form or "plain"):
        raise ValueError(f"{folder} has no {form} form")
    try:
        if manifest.kind == "vectors":
            model: Model = _vectors(folder, manifest, tokenizer, device, threads)
            goldens = manifest.golden
        else:
            names, graphs = _step_graphs(folder, manifest, device, threads, form)
            model = _build(folder / names[-1], manifest, tokenizer, graphs)
            fast = names == FAST_GRAPHS[manifest.kind]
            goldens = (manifest.golden_fast or []) if fast else manifest.golden
        if check:
            try:
                _check_golden(folder / MANIFEST, model, goldens)
            except BundleError:
                if model.provider != PROVIDER:
                    raise
                # rounding that went the other way too often, or a fault of ours: onnxruntime is asked
                place = replace(place_of(device), kernels=False)
                return open_bundle(path, device=place, threads=threads, form=form)
            if isinstance(model, Vectors):
                _check_neighbours(folder / NEIGHBOURS, model)
    except BundleError:
        raise
    except Exception as error:  # a graph whose hash fits may still be any graph, and fail in any way
        path = folder / GRAPHS[manifest.kind][-1]
        raise BundleError(path, f"does not keep the contract ({type(error).__name__}: {error})") from error
    return model


def _step_graphs(
    folder: Path, manifest: Manifest, device: Device, threads: int, form: Form | None
) -> tuple[tuple[str, ...], list[Opened]]:
    """The graphs that a language model or a translator runs, the step graph last, and their files."""

    def opened(names: tuple[str, ...], device: Device) -> tuple[tuple[str, ...], list[Opened]]:
        return names, [open_graph(folder / name, device=device, threads=threads) for name in names]

    plain, fast = GRAPHS[manifest.kind], FAST_GRAPHS[manifest.kind]
    if manifest.form != "both" or form == "plain":
        return opened(plain, device)
    if form == "fast" or not may_use_gpu(device):
        return opened(fast, device)
    names, graphs = opened(plain, device)
    return (
        (names, graphs)
        if not graphs[-1].provider.startswith("CPU")
        else opened(fast, replace(place_of(device), device="cpu"))
    )


def _build(
    step: Path, manifest: Manifest, tokenizer: Tokenizer, graphs: list[Opened]
) -> Language | Translator:
    provider = graphs[-1].provider
    try:
        encoder = graphs[0] if manifest.kind == "translator" else None
        stepper = Stepper(
            graphs[-1], encoder, pad=manifest.special.pad or 0, capacity=manifest.limits.context_tokens
        )
        if stepper.vocab not in (0, tokenizer.size):
            raise ValueError(f"the graph has {stepper.vocab} logits and the tokenizer {tokenizer.size} ids")
        if manifest.kind == "translator":
            return Translator(manifest, tokenizer, stepper, provider=provider)
        lexicon = Lexicon.load(step.with_name(LEXICON)) if LEXICON in manifest.files else None
        return Language(manifest, tokenizer, stepper, provider=provider, lexicon=lexicon)
    except ValueError as error:
        raise BundleError(step, str(error)) from error


def _vectors(folder: Path, manifest: Manifest, tokenizer: Tokenizer, device: Device, threads: int) -> Vectors:
    """Word vectors are read in place; the runtime opens their graph only where it may put it on a GPU."""
    path = folder / GRAPHS["vectors"][0]
    try:
        stored = read_stored(path)
        check_contract(stored, manifest)
        rows = Rows(stored)
        neighbours = None
        if NEIGHBOURS in manifest.files:
            neighbours = Neighbours(folder / NEIGHBOURS, tokenizer.size)
        if may_use_gpu(device):
            graph = Session(path, device=device, threads=threads)
            if not graph.provider.startswith("CPU"):
                return Vectors(
                    manifest, tokenizer, rows, neighbours=neighbours, graph=graph, provider=graph.provider
                )
        return Vectors(manifest, tokenizer, rows, neighbours=neighbours)
    except OSError as error:
        raise BundleError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BundleError(path, str(error)) from error


def _check_file(path: Path, record: FileRecord) -> None:
    try:
        size = path.stat().st_size
        if size != record.size:
            raise BundleError(path, f"has {size} bytes and the manifest says {record.size}")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(path, f"cannot be read: {error.strerror}") from error
    if digest != record.sha256:
        raise BundleError(path, "its contents are not what the manifest says (sha256 differs)")


def _check_tokenizer(path: Path, tokenizer: Tokenizer, manifest: Manifest) -> None:
    if tokenizer.level != manifest.level:
        raise BundleError(path, f"is of level {tokenizer.level} and the manifest says {manifest.level}")
    if tokenizer.special != manifest.special:
        raise BundleError(path, f"has {tokenizer.special} and the manifest says {manifest.special}")


def _check_neighbours(path: Path, model: Vectors) -> None:
    """A table of neighbours says of a few words what a scan says of them."""
    table = model.neighbours
    if table is None or not table.rows:
        return
    ids = [id for id in range(table.rows) if model.word_of(id)]
    for id in {ids[0], ids[len(ids) // 2], ids[-1]} if ids else ():
        found, scanned = (
            [score for _, score in model.nearest_to({id: 1.0}, table.width, among=among)]
            for among in (0, model.rows.size)
        )
        if len(found) != len(scanned) or any(
            not math.isclose(one, other, abs_tol=_TIE) for one, other in zip(found, scanned, strict=True)
        ):
            raise BundleError(path, f"its neighbours of {model.word_of(id)!r} are not those of the vectors")


def _check_golden(path: Path, model: Model, goldens: Iterable[Golden]) -> None:
    usual = _KERNELS_TOLERANCE if model.provider == PROVIDER else TOLERANCE
    tolerance = model.manifest.tolerance.get(model.provider, usual)
    for golden in goldens:
        try:
            output, scores = _answer(model, golden)
        except (InvalidRequest, UnknownWord, ValueError) as error:
            raise BundleError(path, f"golden input {golden.input} is refused: {error}") from error
        if len(scores) != len(golden.scores) or any(
            not math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
            for a, b in zip(scores, golden.scores, strict=True)
        ):
            raise BundleError(path, f"golden input {golden.input} scores {scores}, not {golden.scores}")
        if not _same(output, golden, tolerance):
            raise BundleError(path, f"golden input {golden.input} gives {output}, not {golden.output}")


def _answer(model: Model, golden: Golden) -> tuple[list[str], list[float]]:
    if isinstance(model, Vectors):
        found = model.most_similar(golden.input, topn=len(golden.output))
        return [word for word, _ in found], [score for _, score in found]
    if isinstance(model, Translator):
        translations = [model.translate(text) for text in golden.input]
        return [each.text for each in translations], [each.score for each in translations]
    most = min(GOLDEN_TOKENS, model.manifest.limits.new_tokens)
    options = CompletionOptions(max_tokens=most, beam=1, temperature=0.0)
    completions = [model.complete(prompt, options)[0] for prompt in golden.input]
    return [each.text for each in completions], [each.logprob for each in completions]


def _same(output: list[str], golden: Golden, tolerance: float) -> bool:
    """Whether the texts are equal; neighbours whose cosines are within the tolerance may swap places."""
    if output == golden.output:
        return True
    scores = dict(zip(golden.output, golden.scores, strict=False))
    return sorted(output) == sorted(golden.output) and all(
        abs(scores[found] - scores[wanted]) <= tolerance
        for found, wanted in zip(output, golden.output, strict=True)
    )
