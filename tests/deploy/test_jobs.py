"""The jobs' commands are commands, and the recipe a recipe."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

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
    for where, container in containers(jobs):
        if not where.startswith("CronJob/voisin-train/"):
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


# --- on several nodes


def pod_of(jobs: list[Resource]) -> dict[str, Any]:
    spec: dict[str, Any] = one(jobs, "CronJob", "voisin-train-nodes")["spec"]["jobTemplate"]["spec"][
        "template"
    ]
    return spec


def said_by(container: Resource, index: int, folder: Path) -> list[list[str]]:
    """The commands that a container's script would run in the pod of that index; /runs is `folder`."""
    stubs = folder / "bin"
    stubs.mkdir(exist_ok=True)
    for name in ("torchrun", "voisin-export", "python"):
        stub = stubs / name
        stub.write_text('#!/bin/sh\nprintf "%s\\n" "${0##*/}" "$@"\n')
        stub.chmod(0o755)
    env = {each["name"]: each.get("value", "train-1") for each in container["env"]}
    *shell, script = container["args"]
    done = subprocess.run(
        [shutil.which(shell[0]) or shell[0], *shell[1:], script.replace("/runs/", f"{folder}/runs/")],
        env=env | {"PATH": f"{stubs}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(index)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [done.stdout.split("\n")[:-1]] if done.stdout else []


def torchrun_of(jobs: list[Resource], index: int, folder: Path) -> argparse.Namespace:
    ((program, *words),) = said_by(pod_of(jobs)["spec"]["initContainers"][0], index, folder)
    assert program == "torchrun"
    options = get_args_parser().parse_args(words)
    assert isinstance(options, argparse.Namespace)
    return options


def test_as_many_pods_as_torchrun_waits_for(jobs: list[Resource], tmp_path: Path) -> None:
    job = one(jobs, "CronJob", "voisin-train-nodes")["spec"]["jobTemplate"]["spec"]
    assert job["completionMode"] == "Indexed"
    options = torchrun_of(jobs, 1, tmp_path)
    assert job["completions"] == job["parallelism"] == int(options.nnodes)
    assert options.max_restarts > 0
    assert job["backoffLimitPerIndex"] > 0
    # a pod that failed is replaced by one that torchrun has not seen
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert options.training_script == "training"
    assert options.module
    trained = training.__main__._parser().parse_args(options.training_script_args)
    assert trained.resume  # a pod that comes later does not know that it does
    assert trained.run == tmp_path / "runs" / "train-1"


def test_the_pods_meet_at_pod_0(jobs: list[Resource], tmp_path: Path) -> None:
    spec = pod_of(jobs)["spec"]
    options = [torchrun_of(jobs, index, tmp_path) for index in (0, 1)]
    hosts, ports = zip(*(each.rdzv_endpoint.split(":") for each in options), strict=True)
    service = one(jobs, "Service", spec["subdomain"])
    assert hosts == ("localhost", f"train-1-0.{service['metadata']['name']}")  # hostname.subdomain
    assert set(ports) == {str(service["spec"]["ports"][0]["port"])}
    assert {(each.rdzv_backend, each.rdzv_id) for each in options} == {("c10d", "train-1")}
    assert [each.rdzv_conf.split(",")[0] for each in options] == ["is_host=1", "is_host=0"]
    labels = pod_of(jobs)["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True  # in an init container nobody is ready
    train = spec["initContainers"][0]
    assert {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"} in train["env"]
    address = next(each for each in train["env"] if each["name"] == "POD_IP")
    assert address["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"


def test_the_pods_may_speak_to_each_other_only(jobs: list[Resource]) -> None:
    labels = pod_of(jobs)["metadata"]["labels"]
    policy = one(jobs, "NetworkPolicy", "voisin-train-nodes")["spec"]
    peers = [{"podSelector": policy["podSelector"]}]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert (
        [each["from"] for each in policy["ingress"]] == [each["to"] for each in policy["egress"]] == [peers]
    )
    assert policy["ingress"][0]["ports"] == policy["egress"][0]["ports"]
    ports = policy["ingress"][0]["ports"]
    assert {"protocol": "TCP", "port": 29400} in ports
    # what Linux gives to who asks for any port
    assert {"protocol": "TCP", "port": 32768, "endPort": 60999} in ports
    corpora = one(jobs, "NetworkPolicy", "voisin-train")["spec"]
    assert labels["app.kubernetes.io/name"] in corpora["podSelector"]["matchExpressions"][0]["values"]
    assert "ingress" not in corpora


def test_pod_0_exports_and_a_finished_run_is_not_trained_again(jobs: list[Resource], tmp_path: Path) -> None:
    spec = pod_of(jobs)["spec"]
    train, lower = spec["initContainers"]
    publish = spec["containers"][0]
    assert said_by(lower, 1, tmp_path) == said_by(publish, 1, tmp_path) == []
    ((program, *words),) = said_by(lower, 0, tmp_path)
    assert program == "voisin-export"
    exported = export.__main__.parser().parse_args(words)
    ((program, *words),) = said_by(publish, 0, tmp_path)
    assert [program, *words[:2]] == ["python", "-m", "export.publish"]
    published = export.publish.parser().parse_args(words[2:])
    assert published.bundle == [exported.bundle]
    assert published.release == exported.run.name == "train-1"
    run = tmp_path / "runs" / "train-1"
    run.mkdir(parents=True)
    assert said_by(train, 0, tmp_path)
    (run / "evaluation.json").touch()
    assert said_by(train, 0, tmp_path) == []


def test_the_recipe_of_several_nodes(jobs: list[Resource], tmp_path: Path) -> None:
    spec = pod_of(jobs)["spec"]
    train = spec["initContainers"][0]
    ((_, *words),) = said_by(train, 0, tmp_path)
    name = get_args_parser().parse_args(words).training_script_args[0].rpartition("/")[2]
    path = tmp_path / name
    path.write_text(one(jobs, "ConfigMap", "voisin-recipe")["data"][name])
    recipe = load_recipe(path)
    assert recipe.kind != "vectors"  # which one process trains
    assert {"name": "BUNDLE", "value": recipe.name} in train["env"]
    assert {"name": "OMP_NUM_THREADS", "value": str(recipe.train.threads)} in train["env"]
    assert 0 < recipe.train.save_every <= recipe.train.evaluate_every
    assert all(str(source.path).startswith("/corpora/") for source in recipe.corpus.sources)
    claims = {
        each["persistentVolumeClaim"]["claimName"]
        for each in spec["volumes"]
        if "persistentVolumeClaim" in each
    }
    for claim in claims - {"voisin-models"}:  # that one is in components/models-volume
        assert one(jobs, "PersistentVolumeClaim", claim)["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_gpu_for_every_process(program: Callable[[str], str]) -> None:
    spec = pod_of(render(program, DEPLOY / "jobs-gpu"))["spec"]
    train, lower = spec["initContainers"]
    processes = next(each["value"] for each in train["env"] if each["name"] == "PROCESSES")
    assert train["resources"]["limits"]["nvidia.com/gpu"] == processes
    assert "nvidia.com/gpu" not in lower["resources"]["limits"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in train["volumeMounts"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
