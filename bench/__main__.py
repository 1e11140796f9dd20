"""`python -m bench [QUESTION...]`: similar, decode, engine, recurrent, typing, startup,
http, http-apart, overload, overload-apart (a core for the clients alone).

Prints one table, fills bench/out. `python -m bench capacity --help`: how many replicas a traffic needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import decode, engine, http, overload, recurrent, similar, startup, typing
from bench.capacity import command
from bench.rounds import Row, save, table
from bundle.errors import VoisinError

QUESTIONS: dict[str, Callable[[Path], list[Row]]] = {
    "similar": similar.measure,
    "decode": decode.measure,
    "engine": engine.measure,
    "recurrent": recurrent.measure,
    "typing": typing.measure,
    "startup": startup.measure,
    "http": http.measure,
    "http-apart": partial(http.measure, apart=True),
    "overload": overload.measure,
    "overload-apart": partial(overload.measure, apart=True),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every question was answered; 1: one could not be asked, for the reason told."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["capacity"]:  # has options of its own
        return command.main(given[1:])
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed against named peers.")
    parser.add_argument("question", nargs="*", choices=[*QUESTIONS, []], help="all of them if none is named")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles (models)")
    options = parser.parse_args(given)
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
