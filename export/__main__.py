"""`python -m export RUN BUNDLE [--precision fp32|fp16|int8] [--form plain|fast|both] [--name NAME] ...`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bundle.errors import VoisinError


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes a bundle of a run folder. 0: done; 1: not, for the reason told, and nothing is left behind."""
    options = parser().parse_args(arguments)
    from export.pipeline import export_run  # torch takes seconds to import: --help does not wait for it

    try:
        report = export_run(
            options.run,
            options.bundle,
            precision=options.precision,
            force=options.force,
            name=options.name,
            neighbours=options.neighbours,
            form=options.form,
        )
    except (VoisinError, OSError) as error:
        print(f"voisin-export: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="voisin-export",
        description="Lower a trained run, prove the graphs equal to it, and pack a bundle.",
    )
    parser.add_argument("run", type=Path, help="run folder that training wrote")
    parser.add_argument("bundle", type=Path, help="folder to make")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of the stored weights"
    )
    parser.add_argument(
        "--form",
        choices=("plain", "fast", "both"),
        default="plain",
        help="of the graphs: operators of ONNX alone, or laid out for onnxruntime on CPUs, or both with the "
        "weights stored once",
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle of that name")
    parser.add_argument("--name", default="", help="name the bundle answers to (its folder's)")
    parser.add_argument(
        "--neighbours",
        type=int,
        default=10,
        metavar="N",
        help="nearest words kept of each word, to be looked up (10; 0 = none)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
