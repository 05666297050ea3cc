"""Panels as the dashboard's author thinks of them, and Grafana's JSON of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]

_COLUMNS = 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_HEIGHTS = {"stat": 4, "timeseries": 8, "bargauge": 8}


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and how its series are called: Grafana's legend, with `{{label}}`."""

    promql: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture. `width`: of 24 columns. `thresholds`: (from, colour), the first from -inf."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"  # Grafana's name of it
    kind: Literal["stat", "timeseries", "bargauge"] = "timeseries"
    width: int = 8
    is_stacked: bool = False
    most: float | None = None  # the axis's end
    thresholds: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A question, and the panels that answer it."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top: the values of `label` that the metric has."""

    name: str
    label: str
    metric: str


def dashboard(title: str, uid: str, variables: Sequence[Variable], rows: Sequence[Row]) -> Json:
    """Return the JSON that Grafana imports."""
    return {
        "uid": uid,
        "title": title,
        "tags": [uid],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair for all panels
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), *map(_variable, variables)]},
        "annotations": {"list": []},
        "links": [],
        "panels": list(_placed(rows)),
    }


def _placed(rows: Sequence[Row]) -> Iterator[Json]:
    """Yield rows and panels with their numbers and places, filled line by line."""
    number = top = 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                top, left, height = top + height, 0, 0
            number += 1
            size = {"w": panel.width, "h": _HEIGHTS[panel.kind]}
            yield {"id": number, "gridPos": {"x": left, "y": top, **size}, **_panel(panel)}
            left, height = left + panel.width, max(height, size["h"])
        top += height


def _panel(panel: Panel) -> Json:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "targets": [_target(*pair, panel.kind) for pair in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
    }


def _target(index: int, query: Query, kind: str) -> Json:
    return {
        "refId": chr(ord("A") + index),
        "datasource": _DATASOURCE,
        "expr": query.promql,
        "legendFormat": query.legend or "__auto",
        "range": kind == "timeseries",
        "instant": kind != "timeseries",
    }


def _field(panel: Panel) -> Json:
    steps = [
        {"value": value if index else None, "color": colour}
        for index, (value, colour) in enumerate(panel.thresholds or [(0, "text")])
    ]
    field: Json = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.most is not None:
        field["max"] = panel.most
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.is_stacked else "none"}
        fill = 30 if panel.is_stacked else 5
        field["custom"] = {"fillOpacity": fill, "showPoints": "never", "stacking": stacking}
    return field


def _options(panel: Panel) -> Json:
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    reduce = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    if panel.kind == "stat":
        return {**reduce, "colorMode": "value", "graphMode": "none", "textMode": "auto"}
    return {**reduce, "orientation": "horizontal", "displayMode": "basic", "showUnfilled": True}


def _datasource() -> Json:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }


def _variable(variable: Variable) -> Json:
    query = f"label_values({variable.metric}, {variable.label})"
    return {
        "name": variable.name,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": variable.name},
        "definition": query,
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
