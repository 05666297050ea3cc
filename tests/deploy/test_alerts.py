"""Alerts: over series that exist, with what to do, and they fire when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.grafana.board import board
from tests.deploy.folder import DEPLOY, read_yaml
from tests.deploy.promql import known_series, parse, problems

RULES = [rule for group in read_yaml("prometheus/alerts.yaml")["groups"] for rule in group["rules"]]
FIRE = Path(__file__).with_name("alerts_fire.yaml")
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: set[str]() for rule in RULES if "record" in rule}


def name(rule: Any) -> str:
    return rule.get("alert") or rule["record"]


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_a_rule_names_only_series_and_labels_that_exist(rule: Any) -> None:
    assert problems(parse(rule["expr"]), known_series() | RECORDED) == []


@pytest.mark.parametrize("alert", ALERTS, ids=name)
def test_an_alert_says_what_it_means_where_to_look_and_what_to_do(alert: Any) -> None:
    notes = alert["annotations"]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert len(notes["summary"]) <= 80
    assert notes["description"].endswith(".")
    assert [line.split()[0] for line in notes["runbook"].splitlines() if ": " in line[:7]] == [
        "Means:",
        "Look:",
        "Do:",
    ]


@pytest.mark.parametrize("alert", ALERTS, ids=name)
def test_an_alert_is_raised_by_some_series_of_the_tests(alert: Any) -> None:
    assert f'alertname="{alert["alert"]}"' in FIRE.read_text(encoding="utf-8")


@pytest.mark.parametrize("alert", ALERTS, ids=name)
def test_the_panels_to_look_at_are_on_the_dashboard(alert: Any) -> None:
    titles = [panel["title"] for panel in board()["panels"]]
    for panel in re.findall(r'"([A-Z][^"]+)"', alert["annotations"]["runbook"]):
        assert any(title.startswith(panel) for title in titles), panel


def test_alerts_are_named_once() -> None:
    names = [name(rule) for rule in RULES]
    assert len(set(names)) == len(names)


def test_the_cluster_has_the_same_rules() -> None:
    rule = read_yaml("kubernetes/monitoring/prometheus-rule.yaml")
    assert rule["spec"] == read_yaml("prometheus/alerts.yaml")


def test_prometheus_reads_the_alerts_and_asks_both_gateways() -> None:
    settings = read_yaml("prometheus/prometheus.yaml")
    assert settings["rule_files"] == ["alerts.yaml"]
    [job] = settings["scrape_configs"]
    targets = {target.partition(":")[0] for target in job["static_configs"][0]["targets"]}
    services = read_yaml("compose.yaml")["services"]
    assert targets == {service for service in services if service.startswith("gateway")}
    assert job["job_name"] == "dragoman"


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(DEPLOY / "prometheus" / "prometheus.yaml")),
        ("test", "rules", str(FIRE)),
    ],
    ids=["config", "alerts fire"],
)
def test_prometheus_itself_agrees(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
