"""The kernels are handed addresses: these tests once more, with every access looked at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import missing

SANITIZERS = ["address", "undefined"]


@pytest.mark.skipif("KERNELS_UNDER_TEST" in os.environ, reason="this is that")
def test_nothing_is_read_or_written_out_of_bounds(root: Path, tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer end the process at the first fault."""
    compiler = shutil.which("gcc")
    if compiler is None:
        missing("gcc")
    runtimes = [
        subprocess.run(
            [str(compiler), f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    if not all(Path(path).is_absolute() for path in runtimes):
        missing("the sanitizers of gcc")
    (extension,) = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    built = tmp_path / "kernels.so"
    subprocess.run(
        [
            str(compiler), *extension["extra-compile-args"], "-O1", "-g", "-fPIC", "-shared",
            f"-fsanitize={','.join(SANITIZERS)}", "-fno-sanitize-recover=all",
            "-o", str(built), *(str(root / source) for source in extension["sources"]), "-lm",
        ],
        check=True,
    )  # fmt: skip
    told = {
        "KERNELS_UNDER_TEST": str(built),
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python never gives everything back
        "PYTHONMALLOC": "malloc",  # so that every array has bounds of its own
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent)],
        cwd=root, env={**os.environ, **told}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert " passed" in done.stdout
