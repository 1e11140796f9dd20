"""The manifests as a cluster would get them: rendered by kustomize, as `kubectl apply -k` does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.engine import ROOT

DEPLOY = ROOT / "deploy"
RENDERED = ("overlays/cpu", "overlays/gpu", "overlays/full", "base", "jobs", "jobs-gpu", "monitoring")

Resource = dict[str, Any]


def render(program: Callable[[str], str], folder: Path) -> list[Resource]:
    """Every resource of a kustomization."""
    done = subprocess.run(
        [program("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{done.stderr}(kustomize 5, which kubectl has had since 1.27, is needed)"
    assert not done.stderr, done.stderr  # a warning is a thing to mend
    return [each for each in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if each]


def one(resources: list[Resource], kind: str, name: str) -> Resource:
    """The resource of that kind and name; generated names end in a hash."""
    found = [
        each
        for each in resources
        if each["kind"] == kind and each["metadata"]["name"].removesuffix(_hash(each)) == name
    ]
    assert len(found) == 1, f"{kind}/{name}: {len(found)}"
    return found[0]


def _hash(resource: Resource) -> str:
    name: str = resource["metadata"]["name"]
    end = name.rpartition("-")[2]
    return "-" + end if resource["kind"] == "ConfigMap" and len(end) == 10 else ""


def pods(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """(owner, template) of every pod that the resources would make."""
    for each in resources:
        spec = each.get("spec", {})
        owner = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] in ("Deployment", "Job"):
            yield owner, spec["template"]
        elif each["kind"] == "CronJob":
            yield owner, spec["jobTemplate"]["spec"]["template"]


def containers(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """(owner/name, container) of every container, first ones included."""
    for owner, template in pods(resources):
        for each in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            yield f"{owner}/{each['name']}", each
