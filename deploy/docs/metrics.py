"""The page of all metrics: of the table that they are made from."""

from __future__ import annotations

from gateway.metrics.series import METRICS, Metric

_HEAD = """\
# Metrics

`/metrics` tells them in Prometheus's text format, or OpenMetrics', without a key. Any worker
answers for all workers of its gateway; what a worker has counted stays when it is killed, and all
begins anew with the gateway. Amounts (tokens, images, characters, seconds, nano-USD) are counted
when the ledger records them, as it does; what a worker that was killed had not settled is in the
ledger alone, as `abandoned`.

`model` is the catalogue's id, or `_hub` for all models of the Hub; `upstream` is the configured
name. What clients make up never becomes a label.

*Made of `gateway/metrics/series.py` by `make docs`.*

| name | kind | labels | |
|---|---|---|---|
"""


def page() -> str:
    """Return it."""
    return _HEAD + "".join(map(_row, METRICS))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"
