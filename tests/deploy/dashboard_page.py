"""Writes what a run of the dashboard answered.

python -m tests.deploy.dashboard_page > deploy/docs/dashboard.md
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from deploy.grafana.board import ROWS
from deploy.grafana.panels import Panel
from tests.deploy.busy_gateway import WORKERS
from tests.deploy.dashboard_run import Answer, Run, run
from tests.deploy.prometheus import Series

_MOST_SERIES = 3

_HEAD = """\
# The dashboard over a gateway at work

What the panels of [dragoman.json](../grafana/dragoman.json) answer at the end of {seconds:.0f}
seconds on {date}. Prometheus {version} scraped one gateway of {workers} workers every second.
It answered {requests:.0f} requests of every kind, good and bad, by an upstream that plays its
part, and {under_way:.0f} more are under way. Rates and quantiles are of these seconds; all had
happened once before. Of each query the {series} largest series are shown, or the smallest where
little is bad. Prometheus was asked for what Grafana would ask it; Grafana itself was not run.

*Made by `python -m tests.deploy.dashboard_page`.*
"""


def _seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def _dollars(value: float) -> str:
    return f"${value:.2g}" if value < 1 else f"${value:,.2f}"


_UNITS: Mapping[str, Callable[[float], str]] = {
    "short": "{:.3g}".format,
    "s": _seconds,
    "percentunit": "{:.1%}".format,
    "reqps": "{:.3g}/s".format,
    "ops": "{:.3g}/s".format,
    "currencyUSD": _dollars,
    "bytes": lambda value: f"{value / 2**20:.3g} MiB",
}


def page(made: Run) -> str:
    """Return it."""
    head = _HEAD.format(
        seconds=made.seconds,
        date=time.strftime("%Y-%m-%d"),
        version=made.version,
        workers=WORKERS,
        requests=made.requests,
        under_way=made.under_way,
        series=_MOST_SERIES,
    )
    return head + "".join(_parts(made))


def _parts(made: Run) -> Iterator[str]:
    for row in ROWS:
        yield f"\n## {row.title}\n\n| panel | what it tells | at the end |\n|---|---|---|\n"
        for panel in row.panels:
            answers = [answer for answer in made.answers if answer.panel is panel]
            yield f"| {panel.title} | {panel.description} | {_shown(panel, answers)} |\n"


def _shown(panel: Panel, answers: list[Answer]) -> str:
    lines = [
        _line(panel, answer.query.legend, series)
        for answer in answers
        for series in _telling(answer)
    ]
    return "<br>".join(lines)


def _telling(answer: Answer) -> Sequence[Series]:
    thresholds = answer.panel.thresholds
    is_little_bad = bool(thresholds) and thresholds[0][1] == "red"
    return answer.series[:: -1 if is_little_bad else 1][:_MOST_SERIES]


def _line(panel: Panel, legend: str, series: Series) -> str:
    """Return a series as the panel shows it: by its labels, in its unit."""
    name = re.sub(r"{{(\w+)}}", lambda found: series.labels.get(found[1]) or "–", legend)
    value = _UNITS[panel.unit](series.value) if series.value else "0"
    return f"`{name}` {value}" if name else value


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(page(asyncio.run(run(Path(folder)))))
