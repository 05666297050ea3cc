"""Writes what is made of other files: `make docs`.

docs/settings.md                           of gateway/config*.py
docs/metrics.md                            of gateway/metrics/series.py
grafana/dragoman.json                      of grafana/*.py
kubernetes/monitoring/prometheus-rule.yaml of prometheus/alerts.yaml
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from deploy.docs import metrics, settings
from deploy.grafana.board import board

HERE = Path(__file__).parent

_RULE = """\
# Made of deploy/prometheus/alerts.yaml by `make docs`: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: dragoman
  labels: {app.kubernetes.io/name: dragoman}
spec:
"""


def rendered() -> Mapping[Path, str]:
    """Return the content of each file that is made."""
    alerts = (HERE / "prometheus" / "alerts.yaml").read_text(encoding="utf-8")
    _, _, groups = alerts.partition("\n\n")  # all but what it says of itself
    return {
        HERE / "docs" / "settings.md": settings.page(),
        HERE / "docs" / "metrics.md": metrics.page(),
        HERE / "grafana" / "dragoman.json": json.dumps(board(), indent=1, ensure_ascii=False)
        + "\n",
        HERE / "kubernetes" / "monitoring" / "prometheus-rule.yaml": _RULE + _indented(groups),
    }


def _indented(text: str) -> str:
    return "".join(f"  {line}" if line.strip() else line for line in text.splitlines(keepends=True))


if __name__ == "__main__":
    for path, content in rendered().items():
        path.write_text(content, encoding="utf-8")
