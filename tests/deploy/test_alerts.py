"""Every alert fires when it should and is silent when it should be, by Prometheus' own judgement."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.metrics import OUTCOMES, REASONS, TASKS, Metrics, described
from tests.deploy.engine import ROOT

MONITORING = ROOT / "deploy" / "monitoring"
CASES = [Path(__file__).parent / name for name in ("alerts.yaml", "alerts-hours.yaml")]
# what Prometheus, the operator and the kubelet add to what is scraped
TARGET_LABELS = {"job", "instance", "namespace", "pod", "accelerator"}
# series of others: Prometheus itself, and NVIDIA's DCGM exporter
FOREIGN = {"up", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_GPU_UTIL"}
VALUES = {"task": set(TASKS), "outcome": set(OUTCOMES), "reason": set(REASONS)}


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
    return found


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules that are an `alert` or a `record`."""
    return [rule for group in groups() for rule in group["rules"] if kind in rule]


def promtool(program: Callable[[str], str], *arguments: str) -> None:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_rules(program: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": groups()}))
    promtool(program, "check", "rules", str(path))


def test_every_alert_fires_and_is_silent(program: Callable[[str], str], tmp_path: Path) -> None:
    bare = groups()
    for group in bare:
        for rule in group["rules"]:
            rule.pop("annotations", None)  # their words quote numbers
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": bare}))
    for path in CASES:
        (tmp_path / path.name).write_text(path.read_text())
    promtool(program, "test", "rules", *(str(tmp_path / path.name) for path in CASES))


def test_no_alert_is_without_both_cases() -> None:
    tests = [test for path in CASES for test in yaml.safe_load(path.read_text())["tests"]]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules("alert")}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_every_alert_says_what_it_is_and_where_help_is() -> None:
    headings = re.findall(r"^### (Voisin\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.M)
    for rule in rules("alert"):
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert headings == [rule["alert"] for rule in rules("alert")]


@functools.cache
def exported() -> dict[str, set[str]]:
    """Sample name -> its labels, of everything that the service exports."""
    found: dict[str, set[str]] = {}
    for name, kind, labels, _ in described():
        if kind == "histogram":
            found |= {name + end: set(labels) for end in ("_sum", "_count")}
            found[name + "_bucket"] = {*labels, "le"}
        else:
            found[name] = set(labels)
    for family in Metrics().registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set(sample.labels))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of the rules, the dashboard and the adapter."""
    for rule in rules("expr"):
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


SELECTED = re.compile(r"\b((?:voisin|process|python)_\w+|up|DCGM_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')


@pytest.mark.parametrize(("where", "expression"), [pytest.param(*each, id=each[0]) for each in expressions()])
def test_what_is_asked_for_is_exported(where: str, expression: str) -> None:
    known = exported()
    recorded = {rule["record"] for rule in rules("record")}
    for name in recorded:
        expression = expression.replace(name, "")
    selected = SELECTED.findall(expression)
    assert selected or any(name in recorded for name in re.findall(r"voisin:\S+", expression)) or recorded
    for name, matchers in selected:
        assert name in known or name in FOREIGN, f"{where}: {name} is not exported"
        for label, value in MATCHER.findall(matchers):
            assert label in TARGET_LABELS | known.get(name, set()), f"{where}: {name} has no label {label}"
            if not value.startswith("$"):
                assert set(value.split("|")) <= VALUES.get(label, set(value.split("|"))), f"{where}: {value}"


def test_the_dashboard_is_one(program: Callable[[str], str], tmp_path: Path) -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells), panel["title"]
        taken |= cells
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval", "__all"}
    assert used <= variables
    # its PromQL, read by Prometheus' own parser
    asked = [
        {
            "record": "x:y",
            "expr": target["expr"].replace("$__rate_interval", "5m"),
            "labels": {"n": str(number)},
        }
        for number, target in enumerate(target for panel in panels for target in panel.get("targets", []))
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": asked}]}))
    promtool(program, "check", "rules", str(path))
