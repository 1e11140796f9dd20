"""int8 against fp32, in score, size and speed: `python -m bench.precision [NAME...]`.

int8 is a way of storing here: each row of a matrix is whole numbers and one scale, and a graph turns them
back into fp32. onnxruntime does that once, when the bundle is opened, so that multiplications, memory and
speed are those of fp32; only embeddings are unfolded row by row as they are looked up. What int8 saves is
the size of the files.

Each bundle of the models folder stands beside one of 32-bit weights made from the run that it was exported
from. Speed is measured on one thread in processor time, one text at a time, the sides taking turns; score
through `export.evaluate`, on the same text.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import cleandoc
from pathlib import Path

from bench.rounds import interleave
from bundle.errors import VoisinError
from bundle.language import CompletionOptions, Language
from bundle.load import Model, open_bundle
from bundle.manifest import read_manifest
from bundle.translator import TranslationOptions, Translator
from bundle.vectors import Vectors
from export.evaluate import ROUNDING, Options, evaluate, exact_bundle
from export.results import bundles
from training.ablations.report import Cell, Report, Table, markdown, save, write_into

NAME = "int8"
OUT = Path(__file__).parent / "out"
HEADLINES = ("bits per character", "BLEU", "Spearman's rho", "semantic analogies, % right")
"""The score shown of each bundle: the first of these that it has."""
SECONDS = 0.3
"""How long a side works in a round."""


def measure(folder: Path, runs: Path, *, limit: int, rounds: int) -> list[Cell]:
    """A row: score, size, opening and speed of a bundle beside 32-bit weights.

    Raises VoisinError where the run is missing or is another's.
    """
    manifest = read_manifest(folder)
    with exact_bundle(runs, manifest) as exact:
        rounding = Options(limit=limit, only=(ROUNDING,), against=exact)
        scores = evaluate(folder, rounding) if limit else []
        places = {"int8": folder, "fp32": exact}
        opened = interleave({side: partial(opening, place) for side, place in places.items()}, rounds=rounds)
        works = {side: work(open_bundle(place)) for side, place in places.items()}
        fast = interleave({side: partial(pace, one) for side, one in works.items()}, rounds=rounds)
        sizes = [
            sum(file.size for file in read_manifest(place).files.values()) / 1e6 for place in places.values()
        ]
    headline = next((score for name in HEADLINES for score in scores if score.metric == name), None)
    shown: list[Cell] = ["", None, None]
    if headline is not None:
        shown = [headline.metric, headline.exact, headline.value]
    return [manifest.name, *shown, sizes[1], sizes[0], ratio(opened), ratio(fast)]


def ratio(values: Mapping[str, Sequence[float]]) -> float:
    """int8 divided by fp32: the ratio of the medians of the rounds."""
    return statistics.median(values["int8"]) / statistics.median(values["fp32"])


def opening(folder: Path) -> float:
    """Seconds to open a bundle, hashes compared, golden answers not asked for."""
    started = time.process_time()
    open_bundle(folder, check=False)
    return time.process_time() - started


def work(model: Model) -> Callable[[], object]:
    """The bundle's golden inputs, answered one by one, greedily."""
    inputs = [golden.input[0] for golden in model.manifest.golden]
    if isinstance(model, Vectors):
        return lambda: [model.most_similar([word], topn=10) for word in inputs]
    if isinstance(model, Translator):
        return lambda: [model.translate(text, TranslationOptions(beam=1)) for text in inputs]
    assert isinstance(model, Language)
    options = CompletionOptions(beam=1, temperature=0.0)
    return lambda: [model.complete(prompt, options) for prompt in inputs]


def pace(job: Callable[[], object]) -> float:
    """Repetitions a second."""
    started = time.process_time()
    count = 0
    while (past := time.process_time() - started) < SECONDS or not count:
        job()
        count += 1
    return count / past


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 1: not, for the reason told."""
    parser = argparse.ArgumentParser(prog="python -m bench.precision", description="int8 against fp32.")
    parser.add_argument("name", nargs="*", help="bundles of the models folder; all where none is named")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of int8 bundles (models)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of the runs they come from (runs)"
    )
    parser.add_argument("--limit", type=int, default=200, help="lines or pairs of each score (200); 0: none")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each timing (9)")
    parser.add_argument("--results", type=Path, help="renew the table in this file (docs/results.md)")
    asked = parser.parse_args(arguments)
    folders = [asked.models / name for name in asked.name] or bundles(asked.models)
    try:
        rows = [measure(one, asked.runs, limit=asked.limit, rounds=asked.rounds) for one in folders]
        report = Report(
            name=NAME,
            question="int8 against fp32, in score, size and speed",
            about=cleandoc(__doc__ or ""),
            command=" ".join(
                ["python -m bench.precision", *asked.name, f"--limit {asked.limit} --rounds {asked.rounds}"]
            ),
            minutes=0.0,
            tables=[_table(rows, asked.limit, asked.rounds)],
        )
        save(report, OUT / f"{NAME}.json")
        print(markdown(report))
        if asked.results is not None:
            write_into(asked.results, report)
    except (VoisinError, OSError) as error:
        print(f"bench.precision: {error}", file=sys.stderr)
        return 1
    return 0


def _table(rows: Sequence[Sequence[Cell]], limit: int, rounds: int) -> Table:
    scored = f"Scores on at most {limit:,} lines or pairs of the test half. " if limit else ""
    return Table(
        title=f"{scored}Opening and speed are int8's divided by fp32's, in processor time of one thread, "
        f"medians of {rounds} rounds in turns.",
        columns=["bundle", "score", "fp32", "int8", "MB fp32", "MB int8", "opening time", "speed"],
        rows=rows,
    )


if __name__ == "__main__":
    sys.exit(main())
