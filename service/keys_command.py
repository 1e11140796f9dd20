"""`python -m service keys new NAME`: a key for somebody, and the line that lets it in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from service.keys import SCOPES, digest_of, new_key, parse
from service.settings import SettingsError


def command(arguments: Sequence[str]) -> int:
    """Write the line to stdout, to be appended to the file, and the key itself to stderr, once.

    Returns the exit status: 0, or 2 where a name or a limit cannot be.
    """
    options = parser().parse_args(arguments)
    key = new_key()
    words = [options.name, digest_of(key).hex()]
    if options.scope:
        words.append("scopes=" + ",".join(options.scope))
    words += [f"{name}={value}" for name in ("rate", "concurrent") if (value := getattr(options, name))]
    line = " ".join(words)
    try:
        parse(line, "the new key")
    except SettingsError as error:
        print(f"voisin: {error}", file=sys.stderr)
        return 2
    print(line)
    print(f"{key}\n  is the key of {options.name}: it is shown this once and stored nowhere", file=sys.stderr)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m service keys`."""
    parser = argparse.ArgumentParser(prog="python -m service keys", description="API keys.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = commands.add_parser(
        "new", help="make a key; the line for VOISIN_API_KEYS_FILE goes to stdout, the key to stderr"
    )
    new.add_argument("name", help="letters, digits, . _ -; it is what the log says")
    new.add_argument(
        "--scope", action="append", choices=SCOPES, help="what it may do (default: use); may be repeated"
    )
    new.add_argument("--rate", type=int, help="most requests a minute")
    new.add_argument("--concurrent", type=int, help="most requests under way")
    return parser
