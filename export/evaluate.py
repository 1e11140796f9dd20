"""`python -m export.evaluate BUNDLE|all`: scores through the exported path, kept with the bundle.

A bundle says in its manifest what it was trained on and which part was held out; the corpora themselves come
from `--data` (or `VOISIN_DATA`), or any text of yours from `--text`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from bundle.errors import VoisinError
from bundle.language import Language
from bundle.load import open_bundle
from bundle.manifest import MANIFEST, read_manifest
from bundle.vectors import Vectors
from export import ExportError, pack
from export.card import Score, cell, scores_of, table, write_card
from export.scoring import language_scores, translation_scores, vector_scores
from training import corpus
from training.config import Recipe, recipe_from

Item = TypeVar("Item")

BEGIN, END = "<!-- scores: written by python -m export.evaluate -->", "<!-- end of scores -->"
LIMIT = 1000
NEWSTEST = "newstest2013 (public)"
PUBLIC = {NEWSTEST: ("parallel/newstest2013_devset.en-fr.tsv.xz", ("en", "fr"))}
"""Test sets of translation that nobody here trains on: file in the data folder, columns."""


def evaluate(folder: Path, *, limit: int, text: Path | None, command: str) -> list[Score]:
    """Scores of one bundle, best known to the manifest's recipe; nothing is written.

    limit: most lines or pairs of each set.
    text: score on this file (lines; for a translator two columns, source and target) and on nothing else.
    Raises VoisinError where a corpus is missing.
    """
    model = open_bundle(folder)
    recipe = recipe_from(tomllib.loads(model.manifest.provenance.recipe), folder)
    if isinstance(model, Vectors):
        return vector_scores(model, command=command)
    if isinstance(model, Language):
        return [
            score
            for name, lines in _line_sets(recipe, limit, text)
            for score in language_scores(model, lines, name=name, command=command)
        ]
    return [
        score
        for name, pairs in _pair_sets(recipe, limit, text)
        for score in translation_scores(model, pairs, name=name, command=command)
    ]


def _line_sets(recipe: Recipe, limit: int, text: Path | None) -> Iterator[tuple[str, list[str]]]:
    if text is not None:
        yield text.name, _some(text, (line for line in corpus.read_lines(text) if line.strip()), limit)
        return
    share = recipe.corpus.held_out
    found = corpus.lines(
        recipe.corpus.sources,
        language=recipe.languages[0],
        held_out=share,
        split="test" if share else "all",
        seed=recipe.seed,
    )
    # a source of weight 2 is read twice, and scored once
    yield split_name(share, "lines of its corpora"), _some(recipe.name, _distinct(found), limit)


def _pair_sets(recipe: Recipe, limit: int, text: Path | None) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    languages = (recipe.languages[0], recipe.languages[1])
    if text is not None:
        source = corpus.Source(path=str(text), name=text.name, licence="", attribution="", columns=languages)
        yield text.name, _some(text, _one_reference(corpus.pairs([source], languages)), limit)
        return
    share = recipe.corpus.held_out
    for source in recipe.corpus.sources:
        found = corpus.pairs(
            [source], languages, held_out=share, split="test" if share else "all", seed=recipe.seed
        )
        yield split_name(share, source.name), _some(source.name, _one_reference(found), limit)
    for name, (file, columns) in PUBLIC.items():
        place = Path(os.environ.get("VOISIN_DATA", "")) / file
        if set(columns) == set(languages) and place.is_file():
            source = corpus.Source(path=str(place), name=name, licence="", attribution="", columns=columns)
            yield name, _some(name, _one_reference(corpus.pairs([source], languages)), limit)


def split_name(share: float, corpora: str) -> str:
    """What a split is called in a table."""
    return f"test half of the held-out {share:.2%} of {corpora}" if share else f"{corpora}, the training text itself"


def _distinct(lines: Iterator[str]) -> Iterator[str]:
    seen = set()
    for line in lines:
        if line not in seen:
            seen.add(line)
            yield line


def _one_reference(pairs: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Each source sentence once, with the first of its translations."""
    seen = set()
    for source, target in pairs:
        if source not in seen:
            seen.add(source)
            yield source, target


def _some(name: object, items: Iterator[Item], limit: int) -> list[Item]:
    chosen = list(islice(items, limit))
    if not chosen:
        raise ExportError(f"{name}: nothing to score on")
    return chosen


def record(folder: Path, scores: Sequence[Score]) -> None:
    """Writes scores.json (what else it holds stays) and refreshes the card."""
    manifest = read_manifest(folder)
    pack.write_scores(
        folder,
        pack.read_scores(folder)
        | {"revision": manifest.revision, "scores": msgspec.to_builtins(list(scores))},
    )
    write_card(folder, manifest)


def bundles(models: Path) -> list[Path]:
    """The bundles of a folder, by name."""
    return sorted(path.parent for path in models.glob(f"*/{MANIFEST}"))


def results_table(models: Path) -> str:
    """The scores of every bundle of a folder as one Markdown table."""
    rows = []
    for folder in bundles(models):
        manifest = read_manifest(folder)
        size = sum(record.size for record in manifest.files.values()) / 1e6
        for score in scores_of(pack.read_scores(folder)):
            on = f"{score.set}, {score.size:,} {score.unit}" + (f"; {score.note}" if score.note else "")
            rows.append(
                (
                    f"{manifest.name} ({manifest.precision}, {size:.1f} MB)",
                    score.metric,
                    f"{score.value:.4g}",
                    f"{score.floor:.4g} ({score.floor_is})" if score.floor is not None else "",
                    on,
                    f"`{cell(score.command)}`",
                )
            )
    return table(("bundle", "metric", "score", "floor", "on", "command"), rows)


def write_results(path: Path, models: Path) -> None:
    """Renews the rows between the markers of a page (a new page is begun where there is none).

    Raises ExportError where the page lacks the markers.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ExportError(f"{path}: the markers {BEGIN} and {END} are missing")
    pack.replace_text(path, f"{before}{BEGIN}\n{results_table(models)}\n{END}{after}")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: scored and recorded; 1: not, for the reason told."""
    options = parser().parse_args(arguments)
    if options.data is not None:
        os.environ["VOISIN_DATA"] = str(options.data.resolve())  # recipes name their corpora by it
    try:
        chosen = (
            bundles(options.models) if options.bundle == "all" else [_find(options.bundle, options.models)]
        )
        if not chosen:
            raise ExportError(f"{options.models}: no bundle there")
        for folder in chosen:
            command = f"python -m export.evaluate {folder.name} --limit {options.limit}"
            if options.text is not None:
                command += f" --text {options.text.name}"
            scores = evaluate(folder, limit=options.limit, text=options.text, command=command)
            record(folder, scores)
            for score in scores:
                on = f"{score.set}, {score.size} {score.unit}"
                print(f"{folder.name}: {score.metric} {score.value:.4g} on {on}")
        if options.results is not None:
            write_results(options.results, options.models)
    except (VoisinError, OSError) as error:
        print(f"export.evaluate: {error}", file=sys.stderr)
        return 1
    return 0


def _find(name: str, models: Path) -> Path:
    return models / name if (models / name / MANIFEST).is_file() else Path(name)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.evaluate", description="Score bundles as they are served."
    )
    parser.add_argument("bundle", help="a bundle's folder, its name in the models folder, or `all`")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles (models)")
    parser.add_argument("--data", type=Path, help="folder of the corpora (VOISIN_DATA)")
    parser.add_argument("--text", type=Path, help="score on this file instead of the recipe's held-out text")
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"most lines or pairs of a set ({LIMIT})")
    parser.add_argument(
        "--results", type=Path, help="renew the table between the markers of this file (docs/results.md)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
