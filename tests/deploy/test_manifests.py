"""What a cluster is given: valid, within bounds, and in agreement with the service."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.metrics import described
from service.server import _LAST_BYTES
from service.settings import Settings, read_settings
from tests.deploy.manifests import DEPLOY, RENDERED, Resource, containers, one, pods, render

CURRENT = ("1.33", "1.35", "1.37")
OVERLAYS = [name for name in RENDERED if name.startswith("overlays/")]
# the operator's own kinds have no schema in Kubernetes: promtool judges the rules, and this the rest
MONITOR = {"selector", "endpoints", "podTargetLabels"}
ENDPOINT = {"port", "path", "interval", "scrapeTimeout"}
VERSION = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["version"]

Program = Callable[[str], str]


@pytest.fixture(scope="module")
def rendered(program: Program) -> dict[str, list[Resource]]:
    return {name: render(program, DEPLOY / name) for name in RENDERED}


def settings_of(resources: list[Resource]) -> Settings:
    """What the service makes of the environment that a rendered overlay gives it."""
    given = dict(one(resources, "ConfigMap", "voisin")["data"])
    container = one(resources, "Deployment", "voisin")["spec"]["template"]["spec"]["containers"][0]
    for each in container["env"]:
        given[each["name"]] = each.get("value", "2")  # the one reference is to the limit of processors
    return read_settings({name: value for name, value in given.items() if name.startswith("VOISIN_")})


@pytest.mark.parametrize("version", CURRENT)
@pytest.mark.parametrize("name", RENDERED)
def test_the_schemas_of_kubernetes_agree(
    rendered: dict[str, list[Resource]], name: str, version: str
) -> None:
    judged = 0
    for each in rendered[name]:
        if not each["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(each, version, strict=True)
            judged += 1
    assert judged


def test_a_mistake_would_be_found(rendered: dict[str, list[Resource]]) -> None:
    deployment = yaml.safe_load(yaml.safe_dump(one(rendered["base"], "Deployment", "voisin")))
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, CURRENT[-1], strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_drain_arithmetic(rendered: dict[str, list[Resource]], name: str) -> None:
    spec = one(rendered[name], "Deployment", "voisin")["spec"]["template"]["spec"]
    settings = settings_of(rendered[name])
    sleep = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep + settings.drain_seconds + _LAST_BYTES < spec["terminationGracePeriodSeconds"]
    assert settings.deadline_seconds <= settings.drain_seconds  # what was admitted ends within the drain
    ready = spec["containers"][0]["readinessProbe"]
    assert sleep >= ready["periodSeconds"]


def test_drain_arithmetic_of_compose() -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["voisin"]
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert Settings().drain_seconds + _LAST_BYTES < grace


@pytest.mark.parametrize("name", RENDERED)
def test_every_variable_is_a_setting(rendered: dict[str, list[Resource]], name: str) -> None:
    if any(each["kind"] == "Deployment" for each in rendered[name]):
        settings_of(rendered[name])  # refuses unknown names and values out of bounds
    for where, container in containers(rendered[name]):
        for each in container.get("env", []):
            if container["image"].startswith("voisin:") and each["name"].startswith("VOISIN_"):
                assert each["name"].removeprefix("VOISIN_").lower() in Settings.__dataclass_fields__, where


@pytest.mark.parametrize("name", RENDERED)
def test_images_have_tags_and_containers_limits(rendered: dict[str, list[Resource]], name: str) -> None:
    for where, container in containers(rendered[name]):
        tag = re.fullmatch(r"[a-z0-9./-]+:(\d[\w.-]*)", container["image"])
        assert tag, f"{where}: {container['image']}"
        if container["image"].startswith("voisin"):
            assert tag[1].split("-")[0] == VERSION, where
        for kind in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"][kind]), where


@pytest.mark.parametrize("name", RENDERED)
def test_pods_are_restricted(rendered: dict[str, list[Resource]], name: str) -> None:
    for owner, template in pods(rendered[name]):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, owner
        assert spec["enableServiceLinks"] is False, owner
        assert spec["securityContext"]["runAsNonRoot"] is True, owner
        assert spec["securityContext"]["runAsUser"] > 0, owner
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        allowed = {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= allowed, owner
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], owner
    for where, container in containers(rendered[name]):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, where
        assert context["readOnlyRootFilesystem"] is True, where
        assert context["capabilities"] == {"drop": ["ALL"]}, where


@pytest.mark.parametrize("name", OVERLAYS)
def test_names_and_selectors_meet(rendered: dict[str, list[Resource]], name: str) -> None:
    resources = rendered[name]
    labels = one(resources, "Deployment", "voisin")["spec"]["template"]["metadata"]["labels"]
    for kind, path in (("Service", ()), ("PodDisruptionBudget", ("matchLabels",))):
        selector: Any = one(resources, kind, "voisin")["spec"]["selector"]
        for step in path:
            selector = selector[step]
        assert selector.items() <= labels.items()
    ports = {
        port["name"]
        for port in one(resources, "Deployment", "voisin")["spec"]["template"]["spec"]["containers"][0][
            "ports"
        ]
    }
    assert one(resources, "Service", "voisin")["spec"]["ports"][0]["targetPort"] in ports
    claims = {each["metadata"]["name"] for each in resources if each["kind"] == "PersistentVolumeClaim"}
    maps = {each["metadata"]["name"] for each in resources if each["kind"] == "ConfigMap"}
    for owner, template in pods(resources):
        for volume in template["spec"].get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims, owner
            if config := volume.get("configMap"):
                assert config["name"] in maps, owner
    for where, container in containers(resources):
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= declared_in(resources, where)
        for source in container.get("envFrom", []):
            if config := source.get("configMapRef"):
                assert config["name"] in maps, where


def declared_in(resources: list[Resource], where: str) -> set[str]:
    owner = where.rpartition("/")[0]
    return {
        volume["name"]
        for found, template in pods(resources)
        if found == owner
        for volume in template["spec"].get("volumes", [])
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_who_may_speak_to_whom(rendered: dict[str, list[Resource]], name: str) -> None:
    resources = rendered[name]
    deny = one(resources, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    service = one(resources, "Deployment", "voisin")["spec"]["template"]["metadata"]["labels"]
    redis = one(resources, "Deployment", "redis")["spec"]["template"]["metadata"]["labels"]
    out = one(resources, "NetworkPolicy", "voisin")["spec"]
    into = one(resources, "NetworkPolicy", "redis")["spec"]
    assert out["podSelector"]["matchLabels"].items() <= service.items()
    assert out["egress"][0]["to"][0]["podSelector"]["matchLabels"].items() <= redis.items()
    assert into["podSelector"]["matchLabels"].items() <= redis.items()
    assert into["ingress"][0]["from"][0]["podSelector"]["matchLabels"].items() <= service.items()
    assert "egress" not in into  # Redis asks nobody
    host, port = re.fullmatch(r"redis://([\w-]+):(\d+)/0", settings_of(resources).redis_url).groups()  # type: ignore[union-attr]
    assert one(resources, "Service", host)["spec"]["ports"][0]["port"] == int(port)
    assert out["egress"][0]["ports"] == [{"protocol": "TCP", "port": int(port)}]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_autoscaler_asks_for_what_is_exported(rendered: dict[str, list[Resource]], name: str) -> None:
    scaler = one(rendered[name], "HorizontalPodAutoscaler", "voisin")["spec"]
    deployment = one(rendered[name], "Deployment", scaler["scaleTargetRef"]["name"])
    assert "replicas" not in deployment["spec"]
    asked = [each["pods"]["metric"]["name"] for each in scaler["metrics"] if each["type"] == "Pods"]
    unlabelled = {metric for metric, kind, labels, _ in described() if kind == "gauge" and not labels}
    assert asked == ["voisin_backlog_requests"]
    assert set(asked) <= unlabelled
    adapter = yaml.safe_load((DEPLOY / "monitoring" / "adapter-rules.yaml").read_text())["rules"]["custom"]
    assert [each["name"]["as"] for each in adapter] == asked
    startup = deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    load = startup["periodSeconds"] * startup["failureThreshold"]
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= load


def test_one_gpu_is_enough_for_a_rollout(rendered: dict[str, list[Resource]]) -> None:
    deployment = one(rendered["overlays/gpu"], "Deployment", "voisin")["spec"]
    spec = deployment["template"]["spec"]
    resources = spec["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == "1"
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    assert settings_of(rendered["overlays/gpu"]).device == "cuda"  # refuses to start without one
    assert deployment["template"]["metadata"]["labels"]["accelerator"] == "gpu"
    assert spec["containers"][0]["image"].endswith("-gpu")


def test_a_changed_setting_rolls_the_pods(program: Program, tmp_path: Path) -> None:
    copied = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copied)
    before = one(render(program, copied / "overlays" / "cpu"), "Deployment", "voisin")["spec"]["template"]
    with (copied / "base" / "voisin.env").open("a") as file:
        file.write("VOISIN_TEXT_CHARS=6000\n")
    after = one(render(program, copied / "overlays" / "cpu"), "Deployment", "voisin")["spec"]["template"]
    assert before != after
    assert (
        before["spec"]["containers"][0]["envFrom"][0]["configMapRef"]
        != after["spec"]["containers"][0]["envFrom"][0]["configMapRef"]
    )


def test_a_release_of_models_is_one_variable(rendered: dict[str, list[Resource]]) -> None:
    spec = one(rendered["overlays/full"], "Deployment", "voisin")["spec"]["template"]["spec"]
    container = spec["containers"][0]
    names = [each["name"] for each in container["env"]]
    # Kubernetes expands what stands before
    assert names.index("MODELS_RELEASE") < names.index("VOISIN_MODELS")
    models = next(each["value"] for each in container["env"] if each["name"] == "VOISIN_MODELS")
    mount = next(each for each in container["volumeMounts"] if each["name"] == "models")
    assert models == f"{mount['mountPath']}/releases/$(MODELS_RELEASE)"
    assert mount["readOnly"] is True


def test_kubectl_changes_the_release_and_nothing_else(
    program: Program, rendered: dict[str, list[Resource]]
) -> None:
    deployment = one(rendered["overlays/full"], "Deployment", "voisin")
    changed = yaml.safe_load(
        subprocess.run(
            [program("kubectl"), "set", "env", "--local", "-f", "-", "-o", "yaml", "MODELS_RELEASE=2"],
            input=yaml.safe_dump(deployment), capture_output=True, text=True, check=True, timeout=60,
        ).stdout
    )  # fmt: skip
    container = changed["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "MODELS_RELEASE", "value": "2"} in container["env"]
    before = [each["name"] for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]]
    assert [each["name"] for each in container["env"]] == before  # in the same order


def test_prometheus_finds_the_pods(rendered: dict[str, list[Resource]]) -> None:
    monitor = one(rendered["monitoring"], "ServiceMonitor", "voisin")["spec"]
    assert set(monitor) == MONITOR
    (endpoint,) = monitor["endpoints"]
    assert set(endpoint) == ENDPOINT
    service = one(rendered["base"], "Service", "voisin")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    template = one(rendered["base"], "Deployment", "voisin")["spec"]["template"]
    assert set(monitor["podTargetLabels"]) <= set(template["metadata"]["labels"])
    annotations = template["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == endpoint["path"]
    assert (
        int(annotations["prometheus.io/port"])
        == template["spec"]["containers"][0]["ports"][0]["containerPort"]
    )
    dashboard = one(rendered["monitoring"], "ConfigMap", "voisin-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert len(dashboard["data"]["voisin.json"]) < 1_000_000  # a ConfigMap holds no more


def test_compose_is_held_as_tightly() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d[\w.-]*", service["image"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["mem_limit"], name
        assert service["cpus"], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for volume in service.get("volumes", []):
            assert (DEPLOY / volume.split(":")[0]).is_file(), name
    read_settings(services["voisin"]["environment"])
    assert services["voisin"]["image"] == f"voisin:{VERSION}"
    assert services["voisin"]["build"]["target"] == "service"


def test_the_dockerfile_knows_the_version() -> None:
    text = (DEPLOY.parent / "Dockerfile").read_text()
    assert set(re.findall(r"^ARG VERSION=(.+)$", text, re.M)) == {VERSION}
