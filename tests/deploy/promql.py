"""Which series PromQL speaks of."""

from __future__ import annotations

from collections.abc import Iterator

import promql_parser
from promql_parser import AggregateExpr, Expr, VectorSelector

from gateway.metrics.series import METRICS

_HISTOGRAM_PARTS = {"_bucket": {"le"}, "_sum": set(), "_count": set()}
_FROM_PROMETHEUS = {"instance", "job"}


def known_series() -> dict[str, set[str]]:
    """Return the labels of each series that Prometheus gets, by its name."""
    known = {"up": set(_FROM_PROMETHEUS)}
    for metric in METRICS:
        labels = _FROM_PROMETHEUS | set(metric.labels)
        if metric.kind == "histogram":
            known |= {metric.name + end: labels | more for end, more in _HISTOGRAM_PARTS.items()}
        else:
            known[metric.name] = labels
    return known


def parse(promql: str) -> Expr:
    """Return the expression, Grafana's variables filled in. Raises ValueError."""
    for variable, value in (
        ("$__rate_interval", "1m"),
        ("$__range_s", "3600"),
        ("$__range", "1h"),
    ):
        promql = promql.replace(variable, value)
    return promql_parser.parse(promql)


def problems(expression: Expr, known: dict[str, set[str]]) -> list[str]:
    """Return what `expression` names that does not exist: series, labels, labels to sum by."""
    found = []
    for selector in _selectors(expression):
        if selector.name not in known:
            found.append(f"no series {selector.name}")
            continue
        named = {matcher.name for matcher in selector.matchers.matchers}
        found += [f"{selector.name}: no label {one}" for one in named - known[selector.name]]
    for node in _nodes(expression):
        if isinstance(node, AggregateExpr) and node.modifier:
            summed = [known.get(one.name, set()) for one in _selectors(node.expr)]
            kept = set(node.modifier.labels) - set.intersection(*summed)
            found += [f"{node}: no label {one}" for one in kept]
    return found


def kept_labels(expression: Expr) -> set[str]:
    """Return the labels by which anything in `expression` is summed."""
    sums = (node for node in _nodes(expression) if isinstance(node, AggregateExpr))
    return {label for node in sums if node.modifier for label in node.modifier.labels}


def _selectors(expression: Expr) -> Iterator[VectorSelector]:
    return (node for node in _nodes(expression) if isinstance(node, VectorSelector))


def _nodes(expression: Expr) -> list[Expr]:
    nodes: list[Expr] = []
    promql_parser.walk(expression, pre_visit=nodes.append)
    return nodes
