"""`python -m bench [QUESTION...]`: similar, decode, engine, startup. Prints one table, fills bench/out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import decode, engine, similar, startup
from bench.rounds import Row, save, table
from bundle.errors import VoisinError

QUESTIONS: dict[str, Callable[[Path], list[Row]]] = {
    "similar": similar.measure,
    "decode": decode.measure,
    "engine": engine.measure,
    "startup": startup.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every question was answered; 1: one could not be asked, for the reason told."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed against named peers.")
    parser.add_argument("question", nargs="*", choices=[*QUESTIONS, []], help="all of them if none is named")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles (models)")
    options = parser.parse_args(arguments)
    found: list[Row] = []
    for name in options.question or QUESTIONS:
        print(f"asking: {name}", file=sys.stderr, flush=True)
        try:
            some = QUESTIONS[name](options.models)
        except (VoisinError, OSError) as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            return 1
        save(name, some)
        found += some
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
