"""``python -m export.publish BUNDLE... --to VOLUME --release NAME``: a new release of the models.

A volume that services read holds `releases/NAME/`, each a whole folder of bundles. A release never changes
once it is there, so a service that reads one is not disturbed, and going back is naming the one before.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bundle.errors import VoisinError
from bundle.load import open_bundle
from bundle.manifest import read_manifest
from export import ExportError
from export.pack import sync

RELEASES = "releases"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def publish(
    bundles: Sequence[Path], volume: Path, release: str, *, base: str | None = None, keep: int = 10
) -> Path:
    """Makes `volume/releases/RELEASE`: the bundles given, beside those of `base` that they do not replace.

    Files of `base` are linked, not copied, where the file system can. Every bundle is opened, and its golden
    answers compared, before the release gets its name. Publishing the same bundles again under the same name
    changes nothing.

    Args:
        base: the release to start from; None for the newest, "" for none.
        keep: how many releases stay; the oldest others are removed. 0 keeps all.

    Returns:
        The folder of the release.

    Raises:
        ExportError: the name is unfit or taken by other bundles, `base` is not there, or nothing is given.
        BundleError: a bundle is refused.
    """
    if not _NAME.fullmatch(release):
        raise ExportError(f"{release!r}: a release is named in letters, digits, dots, dashes and underscores")
    if not bundles:
        raise ExportError("no bundle to publish")
    folder = volume / RELEASES
    target = folder / release
    given = {path.resolve().name: path for path in bundles}
    if target.exists():
        _same(target, given)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    older = releases(volume)
    if base is None:
        base = older[-1] if older else ""
    if base and base not in older:
        raise ExportError(f"{base}: no such release; there are {', '.join(older) or 'none'}")
    staging = Path(tempfile.mkdtemp(prefix=f".{release}.", dir=folder))
    try:
        _fill(staging, folder / base if base else None, given)
        staging.rename(target)
        sync([folder])
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for name in releases(volume)[:-keep] if keep else []:
        if name not in (release, base):
            shutil.rmtree(folder / name)
    return target


def releases(volume: Path) -> list[str]:
    """The names of the releases on a volume, oldest first."""
    folders = [
        path
        for path in (volume / RELEASES).iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name != "lost+found"
    ]
    return [path.name for path in sorted(folders, key=lambda path: (path.stat().st_mtime_ns, path.name))]


def _fill(staging: Path, base: Path | None, given: dict[str, Path]) -> None:
    for path in sorted(base.iterdir()) if base else []:
        if path.is_dir() and path.name not in given:
            shutil.copytree(path, staging / path.name, copy_function=_link)
    for name, path in given.items():
        read_manifest(path)  # the error names the folder that was given
        shutil.copytree(path, staging / name)
    for path in sorted(staging.iterdir()):
        open_bundle(path)
        path.chmod(0o755)
        sync([*path.iterdir(), path])
    staging.chmod(0o755)
    sync([staging])


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every network file system has links
        shutil.copy2(source, target)


def _same(target: Path, given: dict[str, Path]) -> None:
    for name, path in given.items():
        there = target / name
        if not there.is_dir() or read_manifest(there).revision != read_manifest(path).revision:
            raise ExportError(
                f"{target}: exists with another {name}; a release never changes, name a new one"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 0: the release is there, and its name printed; 1: not, for the reason told."""
    options = parser().parse_args(arguments)
    try:
        base = "" if options.alone else options.base
        target = publish(options.bundle, options.to, options.release, base=base, keep=options.keep)
    except (VoisinError, OSError) as error:
        print(f"voisin-publish: {error}", file=sys.stderr)
        return 1
    print(target.name)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.publish", description="Put bundles on a volume as a new release of the models."
    )
    parser.add_argument("bundle", type=Path, nargs="+", help="bundle folder; it keeps its name")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="VOLUME", help="where releases/ is, or will be"
    )
    parser.add_argument("--release", required=True, metavar="NAME", help="name of the new release")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--base", metavar="NAME", help="release whose other bundles go along (the newest)")
    start.add_argument("--alone", action="store_true", help="the bundles given and no others")
    parser.add_argument("--keep", type=int, default=10, metavar="N", help="releases that stay; 0 = all (10)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
