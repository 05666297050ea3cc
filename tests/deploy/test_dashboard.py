"""Grafana's dashboard: made of its sources, over series that exist, each panel explained."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.deploy.folder import read, read_yaml
from tests.deploy.promql import kept_labels, known_series, parse, problems

BOARD = json.loads(read("grafana/dragoman.json"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize(
    ("title", "target"), QUERIES, ids=[f"{title}-{one['refId']}" for title, one in QUERIES]
)
def test_a_query_names_only_series_and_labels_that_exist(title: str, target: Any) -> None:
    expression = parse(target["expr"])
    assert problems(expression, known_series()) == []
    in_legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    assert in_legend <= kept_labels(expression)


def test_the_check_of_queries_finds_what_does_not_exist() -> None:
    wrong = (
        'sum by (modle) (rate(dragoman_requests_total{taks="chat"}[1m])) / dragoman_request_total'
    )
    assert sorted(problems(parse(wrong), known_series())) == [
        "dragoman_requests_total: no label taks",
        "no series dragoman_request_total",
        'sum by (modle)(rate(dragoman_requests_total{taks="chat"}[1m])): no label modle',
    ]


def test_every_metric_is_shown() -> None:
    shown = " ".join(target["expr"] for _, target in QUERIES)
    names = {re.sub("_(bucket|sum|count)$", "", name) for name in known_series()} - {"up"}
    assert {name for name in names if name not in shown} == set()


def test_variables_are_of_series_that_exist() -> None:
    for variable in BOARD["templating"]["list"][1:]:
        metric, label = re.fullmatch(
            r"label_values\((\w+), (\w+)\)", variable["query"]["query"]
        ).groups()
        assert label in known_series()[metric]


def test_every_panel_says_what_it_shows_and_in_what_unit() -> None:
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_panels_fill_their_lines_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_grafana_is_given_the_dashboard_and_its_prometheus() -> None:
    grafana = read_yaml("compose.yaml")["services"]["grafana"]
    [provider] = read_yaml("grafana/provisioning/dashboards/dragoman.yaml")["providers"]
    assert (
        f"./grafana/dragoman.json:{provider['options']['path']}/dragoman.json:ro"
        in (grafana["volumes"])
    )
    [source] = read_yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
