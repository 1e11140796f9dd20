"""The jobs' commands are commands, and the recipe a recipe."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import export.__main__
import export.publish
import training.__main__
from tests.deploy.manifests import DEPLOY, Resource, containers, one, render
from training.config import load_recipe

PARSERS = {
    "voisin-train": training.__main__._parser,
    "voisin-export": export.__main__.parser,
    "python": export.publish.parser,
}


@pytest.fixture(scope="module")
def jobs(program: Callable[[str], str]) -> list[Resource]:
    return render(program, DEPLOY / "jobs")


def test_every_command_is_understood(jobs: list[Resource]) -> None:
    seen = []
    for _, container in containers(jobs):
        if not container["image"].startswith("voisin-training:"):
            continue
        known = {each["name"]: each.get("value", "train-1") for each in container["env"]}
        words = container["args"]
        for name, value in known.items():
            words = [word.replace(f"$({name})", value) for word in words]
        assert not [word for word in words if "$" in word]
        program, arguments = words[0], words[1:]
        if program == "python":
            assert arguments[:2] == ["-m", "export.publish"]
            arguments = arguments[2:]
        options = PARSERS[program]().parse_args(arguments)
        seen.append((program, options))
    train, lower, publish = (options for _, options in seen)
    assert train.run == lower.run
    assert train.resume
    assert publish.bundle == [lower.bundle]
    assert publish.release == train.run.name
    models = one(jobs, "CronJob", "voisin-train")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    mounts = {each["mountPath"] for each in models["containers"][0]["volumeMounts"]}
    assert str(publish.to) in mounts


def test_the_recipe_trains_what_the_job_exports(jobs: list[Resource], tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(one(jobs, "ConfigMap", "voisin-recipe")["data"]["recipe.toml"])
    recipe = load_recipe(path)
    job = one(jobs, "CronJob", "voisin-train")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    train = job["initContainers"][0]
    assert {"name": "BUNDLE", "value": recipe.name} in train["env"]
    mounts = {mount["mountPath"] for mount in train["volumeMounts"]}
    assert all(str(source.path).startswith("/corpora/") for source in recipe.corpus.sources)
    assert {"/corpora", "/recipe", "/runs"} <= mounts


def test_the_first_release_is_what_the_image_holds(tmp_path: Path) -> None:
    seed = yaml.safe_load((DEPLOY / "jobs" / "seed.yaml").read_text())
    *command, script = seed["spec"]["template"]["spec"]["containers"][0]["command"]
    baked, volume = tmp_path / "models", tmp_path / "volume"
    (baked / "fr-en").mkdir(parents=True)
    (baked / "fr-en" / "manifest.json").write_text("1")
    volume.mkdir()
    script = script.replace("/srv/models", str(volume)).replace("/models/.", f"{baked}/.")
    subprocess.run([*command, script], check=True, timeout=60)
    assert (volume / "releases" / "1" / "fr-en" / "manifest.json").read_text() == "1"
    (baked / "fr-en" / "manifest.json").write_text("2")
    subprocess.run([*command, script], check=True, timeout=60)  # a release never changes
    assert (volume / "releases" / "1" / "fr-en" / "manifest.json").read_text() == "1"
    assert [path.name for path in (volume / "releases").iterdir()] == ["1"]
