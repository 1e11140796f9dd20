"""`python -m export.toys [--serve] [--folder runs/toy]`: the course's examples, end to end, in a minute.

Every recipe of training/recipes/toy is trained, exported and verified; with `--serve` one service opens all
the bundles and is asked over HTTP what follows `m`, and what `assez` is in English.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle.errors import VoisinError
from bundle.manifest import Manifest
from export import ExportError
from export.server import Server, serve

RECIPES = Path(__file__).resolve().parent.parent / "training" / "recipes" / "toy"

QUESTIONS = {"language": ("m", "asse"), "translator": ("assez", "enough")}
"""Kind -> what a toy is asked, and the only right answer."""


@dataclass(frozen=True)
class Toy:
    """One recipe that has become a bundle."""

    name: str
    manifest: Manifest
    training: float
    """Seconds."""
    export: float
    """Seconds, verification included."""


def recipes() -> list[Path]:
    """The toy recipes, by name."""
    return sorted(RECIPES.glob("*.toml"))


def make(folder: Path, chosen: Sequence[Path] | None = None) -> Iterator[Toy]:
    """Trains and exports toys into `folder`/runs and `folder`/bundles, replacing what is there.

    Raises VoisinError: a job or an export failed; its training log is on stderr.
    """
    from export.pipeline import export_run
    from training.__main__ import train
    from training.config import encode_recipe, load_recipe

    for path in recipes() if chosen is None else chosen:
        recipe = load_recipe(path)
        run, bundle = folder / "runs" / recipe.name, folder / "bundles" / recipe.name
        shutil.rmtree(run, ignore_errors=True)
        started = time.perf_counter()
        log = io.StringIO()  # progress of a job that takes a second is noise
        try:
            with contextlib.redirect_stderr(log):
                train(recipe, encode_recipe(load_recipe(path, expand=False)), run)
        except VoisinError:
            print(log.getvalue(), file=sys.stderr)
            raise
        trained = time.perf_counter()
        report = export_run(run, bundle, force=True)
        yield Toy(recipe.name, report.manifest, trained - started, time.perf_counter() - trained)


def ask(server: Server, manifest: Manifest) -> str:
    """The answer over HTTP of a toy to its question."""
    question, _ = QUESTIONS[manifest.kind]
    if manifest.kind == "translator":
        source, target = manifest.languages
        body = {"q": question, "source": source, "target": target, "model": manifest.name}
        return str(server.post("/translate", body)["translatedText"])
    answer = server.get("/complete", {"prompt": question, "model": manifest.name})
    return str(answer["completions"][0]["text"])


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every toy was made and, if asked, answered right; 1: not."""
    options = parser().parse_args(arguments)
    started = time.perf_counter()
    toys = []
    try:
        print(f"{'recipe':<28}{'kind':<12}{'parameters':>10}{'training s':>12}{'export s':>10}  difference")
        for toy in make(options.folder):
            toys.append(toy)
            worst = max(
                (check.observed for name, check in toy.manifest.parity.items() if "_vs_" in name), default=0.0
            )
            print(
                f"{toy.name:<28}{toy.manifest.kind:<12}{toy.manifest.provenance.parameters:>10,}"
                f"{toy.training:>12.1f}{toy.export:>10.1f}  {worst:.1e}",
                flush=True,
            )
        if options.serve:
            answer(options.folder / "bundles", [toy.manifest for toy in toys])
    except (VoisinError, OSError) as error:
        print(f"export.toys: {error}", file=sys.stderr)
        return 1
    print(f"{len(toys)} toys in {time.perf_counter() - started:.0f} s")
    return 0


def answer(bundles: Path, manifests: Sequence[Manifest]) -> None:
    """Serves the bundles and prints what each answers. Raises ExportError if one is wrong."""
    wrong = []
    with serve(bundles) as server:
        print(f"serving {bundles}, ready after {server.ready_after:.1f} s")
        for manifest in manifests:
            if manifest.kind not in QUESTIONS:
                continue
            question, right = QUESTIONS[manifest.kind]
            given = ask(server, manifest)
            verdict = "" if given == right else f"   (should be {right})"
            print(f"{manifest.name:<28}{question} -> {given}{verdict}")
            if given != right:
                wrong.append(manifest.name)
    if wrong:
        raise ExportError(f"wrong answers from {', '.join(wrong)}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.toys", description="Train, export and serve the toys."
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/toy"), help="where runs and bundles go (runs/toy)"
    )
    parser.add_argument("--serve", action="store_true", help="serve the bundles and ask them over HTTP")
    return parser


if __name__ == "__main__":
    sys.exit(main())
