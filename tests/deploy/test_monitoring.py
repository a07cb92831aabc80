"""Alerts, dashboard and runbook speak of metrics that exist; promtool runs the alerts on made-up series."""

import json
import re
import subprocess
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry

from deploy import generate
from stream.metrics import Metrics
from tests.deploy.tools import ROOT

ALERTS = generate.CHART / "files" / "alerts.yaml"
RUNBOOK = ROOT / "deploy" / "runbook.md"
FOREIGN = {"up", "kube_pod_container_resource_limits"}


def shown() -> dict[str, set[str]]:
    """Names that a worker shows, with their labels."""
    names: dict[str, set[str]] = {}
    for value in vars(Metrics(CollectorRegistry())).values():
        if hasattr(value, "_labelnames"):
            labels = set(value._labelnames)
            suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[value._type]
            names |= {value._name + suffix: labels | ({"le"} if suffix == "_bucket" else set()) for suffix in suffixes}
    return names


def metrics_in(query: str) -> set[str]:
    return set(re.findall(r"\b(?:offerstream|process|kube)_[a-z_]+\b", re.sub(r'"[^"]*"', '""', query)))


def queries() -> dict[str, list[str]]:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    panels = json.loads(generate.DASHBOARD.read_text())["panels"]
    return {
        "alerts": [rule["expr"] for rule in rules],
        "dashboard": [target["expr"] for panel in panels for target in panel["targets"]],
    }


def test_only_metrics_that_exist_are_asked_for() -> None:
    known = set(shown()) | FOREIGN | set(re.findall(r"`(process_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    for where, expressions in queries().items():
        for expression in expressions:
            assert metrics_in(expression) <= known, (where, expression)


def test_labels_that_are_asked_for_exist() -> None:
    known, target = shown(), {"job", "pod", "instance"}
    for expressions in queries().values():
        for expression in expressions:
            has = set().union(*(known.get(metric, set()) for metric in metrics_in(expression))) | target
            asked = set(re.findall(r"[{,]\s*(\w+)\s*=", expression))
            asked |= {
                label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")
            }
            if "kube_" not in expression:
                assert asked <= has, expression


def test_every_metric_is_on_the_dashboard() -> None:
    drawn = set().union(*(metrics_in(query) for query in queries()["dashboard"]))
    for name in {re.sub("_(total|bucket|sum|count)$", "", name) for name in shown()}:
        assert any(metric.startswith(name) for metric in drawn), name


def test_the_dashboard_is_what_its_generator_writes() -> None:
    assert generate.DASHBOARD.read_text() == generate.dashboard_text(), "run: python -m deploy.generate"
    panels = json.loads(generate.DASHBOARD.read_text())["panels"]
    places = {
        (x, y) for p in panels for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + 8) for y in [p["gridPos"]["y"]]
    }
    assert len(places) == 8 * len(panels)  # none lies on another


def test_every_alert_has_its_section_and_the_other_way_round() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    assert re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE) == names
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"deploy/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_promtool_accepts_the_rules(promtool: Path) -> None:
    done = subprocess.run([promtool, "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_where_they_should_and_only_there(promtool: Path) -> None:
    tests = ROOT / "deploy" / "prometheus" / "alerts_test.yaml"
    done = subprocess.run([promtool, "test", "rules", tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Each alert is tried both ways.
    tried = [t for case in yaml.safe_load(tests.read_text())["tests"] for t in case["alert_rule_test"]]
    rules = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    assert {t["alertname"] for t in tried if t.get("exp_alerts")} == rules
    assert {t["alertname"] for t in tried if not t.get("exp_alerts")} == rules


def test_promtool_accepts_what_a_worker_shows(promtool: Path) -> None:
    from prometheus_client import generate_latest

    text = generate_latest(Metrics(CollectorRegistry()).registry)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
