"""The dashboard and the alerts in a real Prometheus, over a gateway to which everything happens."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator

import pytest

from deploy.grafana.board import ROWS
from tests.deploy.dashboard_run import Answer, Run, run
from tests.deploy.folder import read

pytestmark = pytest.mark.anyio

PANELS = [panel for row in ROWS for panel in row.panels]
QUERIES = [(panel.title, query.promql) for panel in PANELS for query in panel.queries]

ZERO = {
    "dragoman_cache_evicted_total": "the cache has room",
    "dragoman_ledger_lag_records": "the book takes records as they come",
    "dragoman_ledger_lag_seconds": "the book takes records as they come",
    "dragoman_log_lines_dropped_total": "the log is read",
    "dragoman_spool_bytes": "the state store was there all the time",
}
"""What may be zero in a run, and why: all else is to be more."""

PENDING = {
    "DragomanModelDown": "the upstream `gone` is",
    "DragomanUpstreamDown": "the upstream `gone` is",
}
"""What may be about to fire, and why. It is not while the upstream may be tried anew."""

OF_A_BUSY_MACHINE = {"DragomanEventLoopLags", "DragomanStoreSlow"}


@pytest.fixture(scope="module")
async def made(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    if not shutil.which("prometheus"):
        pytest.skip("needs prometheus")
    yield await run(tmp_path_factory.mktemp("run"))


@pytest.mark.slow
@pytest.mark.parametrize(("title", "promql"), QUERIES, ids=[title for title, _ in QUERIES])
async def test_a_query_has_an_answer(made: Run, title: str, promql: str) -> None:
    [answer] = [
        one for one in made.answers if (one.panel.title, one.query.promql) == (title, promql)
    ]
    assert answer.series
    assert answer.series[0].value > 0 or may_be_zero(answer)


@pytest.mark.slow
async def test_rules_work_and_only_those_alerts_rise_that_should(made: Run) -> None:
    assert {rule["name"] for rule in made.rules if rule["health"] != "ok"} == set()
    states = {rule["name"]: rule["state"] for rule in made.rules if rule["type"] == "alerting"}
    assert {name for name, state in states.items() if state == "firing"} == set()
    pending = {name for name, state in states.items() if state == "pending"}
    assert pending - OF_A_BUSY_MACHINE <= PENDING.keys()


def may_be_zero(answer: Answer) -> bool:
    return any(name in answer.query.promql for name in ZERO)


def test_the_page_of_a_run_has_all_panels() -> None:
    titles = re.findall(r"^\| ([^|]+) \| [^|]+\. \| .", read("docs/dashboard.md"), re.MULTILINE)
    assert titles == [panel.title for panel in PANELS]
