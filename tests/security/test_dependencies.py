"""What is installed is what is pinned: the part of the audit without network; `make audit` is the other."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What Makefile and installers bring, before any pin is read.
BEFORE = {"pip", "setuptools", "wheel", "voisin"}
# Heavy or offline: the service must not need them.
OFFLINE = {"torch", "gensim", "onnx", "scipy", "matplotlib", "pyarrow", "sacrebleu"}


def pins(root: Path) -> dict[str, str]:
    lines = (root / "constraints.txt").read_text().splitlines()
    named = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(each) == 2 for each in named), "a line that pins no version"
    return {canonicalize_name(name): pinned for name, pinned in named}


def closure(asked: list[str], extras: frozenset[str] = frozenset()) -> set[str]:
    """Everything that these requirements need on this machine, by name."""
    found: set[str] = set()
    todo = [(Requirement(each), extras) for each in asked]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement, wanted = todo.pop()
        environment = {**default_environment()}
        if requirement.marker and not any(
            requirement.marker.evaluate(environment | {"extra": extra}) for extra in (wanted or {""})
        ):
            continue
        name = canonicalize_name(requirement.name)
        inner = frozenset(requirement.extras)
        if (name, inner) in seen:
            continue
        seen.add((name, inner))
        if name != "voisin":
            found.add(name)
        try:
            needs = requires(requirement.name) or []
        except PackageNotFoundError:
            continue
        todo += [(Requirement(each), inner) for each in needs]
    return found


def project(root: Path) -> dict[str, list[str]]:
    """The requirements of the project and of its extras, without those that name the project itself."""
    plain = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return {"": plain["dependencies"], **plain["optional-dependencies"]}


@pytest.mark.parametrize("extra", ["", "cpu", "tracing", "training", "dev"])
def test_everything_that_is_needed_is_pinned(root: Path, extra: str) -> None:
    asked = [each for each in project(root)[extra] if not each.startswith("voisin[")]
    lacking = closure(asked) - set(pins(root)) - BEFORE
    # the libraries of a GPU come with the runtime that is chosen, not from here
    assert {name for name in lacking if not re.match(r"nvidia-|triton|cuda-", name)} == set()


def test_what_is_installed_is_what_is_pinned(root: Path) -> None:
    differing = {}
    for name, pinned in pins(root).items():
        try:
            found = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue  # pinned for another machine or extra
        if found != pinned:
            differing[name] = (found, pinned)
    assert differing == {}


def test_the_service_needs_little(root: Path) -> None:
    assert closure(project(root)[""] + project(root)["cpu"]) & OFFLINE == set()
