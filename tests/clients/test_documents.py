"""The Python examples of docs/api.md are run against the bundles that ship, and print what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.making import Service, serve

EXAMPLE = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def shipped(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service over `models/`."""
    with serve(root / "models", tmp_path_factory.mktemp("log") / "service.log") as service:
        yield service


def test_the_examples_print_what_the_page_says(root: Path, shipped: Service) -> None:
    text = (root / "docs" / "api.md").read_text(encoding="utf-8")
    examples = EXAMPLE.findall(text)
    assert len(examples) == text.count("```python")
    for code, printed in examples:
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            exec(code.replace("localhost:8000", f"127.0.0.1:{shipped.port}"), {})
        assert told.getvalue() == printed
