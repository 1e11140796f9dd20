"""`python -m tests.security.opener`: opens each bundle whose folder it is told, and says how that went.

A process of its own, because a loader that crashes or hangs takes its process with it. One line in, one out:
`opened`, `refused REASON`, or `wrong TYPE: TEXT` for any exception that is not a BundleError. What opens is
asked: of word vectors, the words that their table of neighbours has.
"""

from __future__ import annotations

import os
import resource
import sys
import warnings

from bundle.errors import BundleError
from bundle.load import Model, open_bundle
from bundle.vectors import Vectors

_MOST_MEMORY = 6 * 2**30


def outcome(folder: str) -> str:
    """How opening went, in one line."""
    try:
        model = open_bundle(folder)
        _ask(model)
        if model.manifest.form == "both":  # what opened are the fast graphs
            open_bundle(folder, form="plain")
    except BundleError as error:
        return f"refused {error.reason}"
    except BaseException as error:  # the tokenizers library panics with a BaseException
        return f"wrong {type(error).__name__}: {error}"
    return "opened"


def _ask(model: Model) -> None:
    """What the service would ask of word vectors. Their answers may be wrong, but they are answers."""
    if isinstance(model, Vectors) and model.neighbours is not None:
        for id in range(min(model.neighbours.rows, 100)):
            for topn in {1, model.neighbours.width} - {0}:
                model.nearest_to({id: 1.0}, topn)


def main() -> None:
    """Until the input ends."""
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    # native libraries may print what they like; answers go out another way
    with os.fdopen(os.dup(1), "wb", buffering=0) as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            said = outcome(line.rstrip("\n")).replace("\n", " ")
            answers.write(said[:500].encode("ascii", "backslashreplace") + b"\n")


if __name__ == "__main__":
    main()
