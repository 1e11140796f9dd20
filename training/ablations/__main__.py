"""``python -m training.ablations NAME...|all [--set a.b=c]... [--runs FOLDER] [--results FILE]``"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from inspect import getdoc
from pathlib import Path
from types import ModuleType

from bundle.errors import VoisinError
from training.ablations import (
    architectures,
    attention,
    autocast,
    cells,
    neighbours,
    recall,
    units,
)
from training.ablations.job import Job
from training.ablations.report import Report, Table, markdown, save, write_into

QUESTIONS: dict[str, tuple[str, ModuleType]] = {
    "cells": ("RNN, GRU or LSTM at equal parameters: how well, and from how far back?", cells),
    "recall": ("How far back does each cell remember one letter through noise?", recall),
    "attention": ("What does attention change in an LSTM encoder-decoder?", attention),
    "architectures": ("Transformer or LSTM, at equal parameters?", architectures),
    "units": ("Characters, sub-words or 10,000 words?", units),
    "neighbours": ("What do subsampling and phrases do to word neighbours?", neighbours),
    "autocast": ("What does bf16 autocast do to the pace on this processor?", autocast),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all questions are answered; 1: one is not, told in one line."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    names = list(QUESTIONS) if "all" in options.name else options.name
    try:
        for name in names:
            report = answer(name, options.runs, options.set, again=options.again)
            print(f"### {report.question}\n\n{markdown(report)}\n", flush=True)
            if options.results is not None:
                write_into(options.results, report)
    except (VoisinError, OSError) as error:
        print(f"training.ablations: {name}: {error}", file=sys.stderr)
        return 1
    return 0


def answer(name: str, runs: Path, overrides: Sequence[str] = (), *, again: bool = False) -> Report:
    """Runs one ablation, keeps its report as ``RUNS/NAME.json`` and returns it.

    again: train afresh what is there already.

    Raises: VoisinError.
    """
    question, module = QUESTIONS[name]
    if again:
        shutil.rmtree(runs / name, ignore_errors=True)
    job = Job(runs / name, tuple(overrides))
    tables: list[Table] = module.run(job)
    command = " ".join(["python -m training.ablations", name, *(f"--set {one}" for one in overrides)])
    report = Report(
        name=name,
        question=question,
        about=getdoc(module) or "",
        command=command,
        minutes=round(job.seconds / 60, 1),
        tables=tables,
    )
    save(report, runs / f"{name}.json")
    return report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ablations", description="Small experiments: one question each, on one core."
    )
    parser.add_argument("name", nargs="+", choices=[*QUESTIONS, "all"], help="the questions, or all of them")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="override a key of every recipe"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/ablations"), help="run folders and JSON reports"
    )
    parser.add_argument("--again", action="store_true", help="train afresh what is there already")
    parser.add_argument("--results", type=Path, help="renew the tables in this file (docs/results.md)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
