"""The dashboard: the questions that operators ask, and what can be chosen at its top."""

from __future__ import annotations

from deploy.grafana.costs import CACHE, COST
from deploy.grafana.panels import Json, Variable, dashboard
from deploy.grafana.speed import INSIDE, SLOW
from deploy.grafana.usage import UP, WHO

_VARIABLES = (
    Variable("instance", "instance", "dragoman_build_info"),
    Variable("model", "model", "dragoman_requests_total"),
    Variable("upstream", "upstream", "dragoman_upstream_available"),
)
ROWS = (UP, WHO, SLOW, COST, CACHE, INSIDE)


def board() -> Json:
    """Return the dashboard as Grafana imports it."""
    return dashboard("Dragoman", "dragoman", _VARIABLES, ROWS)
