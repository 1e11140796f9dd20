"""The online rooms never load the offline libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OFFLINE = ("torch", "gensim", "onnx", "sacrebleu", "matplotlib", "training", "export")


@pytest.mark.parametrize("package", ["bundle.load", "service.app", "service.__main__"])
def test_importing_it_loads_nothing_offline(package: str, root: Path) -> None:
    code = f"import sys, {package}; print([m for m in {OFFLINE!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_does_not_load_the_runtime(root: Path) -> None:
    code = "import sys, training.__main__, training.loop; print({'onnxruntime', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
