"""Every query of the dashboard, asked of a real Prometheus over a gateway that has work."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.grafana.board import ROWS
from deploy.grafana.panels import Panel, Query
from tests.deploy.busy_gateway import at_work, busy_gateway, everything
from tests.deploy.prometheus import SCRAPE_SECONDS, Prometheus, Series, prometheus
from tests.gateway.metrics.site import Site

_SAMPLED_SECONDS = 1  # after which a worker's gauges are as things are


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query of one panel has for an answer, the largest series first."""

    panel: Panel
    query: Query
    series: Sequence[Series]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of `seconds` in which all happened.

    `rules`: each of ours, with its `health` and an alert's `state`.
    """

    answers: Sequence[Answer]
    rules: Sequence[Mapping[str, Any]]
    seconds: float
    requests: float
    under_way: float
    version: str


async def run(folder: Path) -> Run:
    """Let everything happen, twice, and ask for all the dashboard while requests are under way."""
    async with AsyncExitStack() as closing:
        site, port = await closing.enter_async_context(busy_gateway(folder / "data"))
        asked = await closing.enter_async_context(prometheus(folder, port))
        await asked.has_seen(time.time())
        await _round(0, site, asked)  # a counter that begins with 1 has not grown
        began = time.time() - SCRAPE_SECONDS  # within which it was asked how things are
        before = await _requests(asked)
        await _round(1, site, asked)
        async with at_work(site):
            await asked.has_seen(time.time())
            requests = await _requests(asked) - before
            return await _look(asked, began, requests)


async def _round(number: int, site: Site, asked: Prometheus) -> None:
    for happening in everything(number):
        async with happening(site):
            pass
    await asked.has_seen(time.time() + _SAMPLED_SECONDS)


async def _requests(asked: Prometheus) -> float:
    """Return how many have been answered."""
    [requests] = await asked.query('sum(dragoman_http_requests_total{route=~"/v1/.*"})')
    return requests.value


async def _look(asked: Prometheus, began: float, requests: float) -> Run:
    now = time.time()
    panels = [panel for row in ROWS for panel in row.panels]
    [under_way] = await asked.query('sum(dragoman_requests_in_flight{task!=""})')
    return Run(
        answers=[
            Answer(panel, query, await _series(asked, query, began, now))
            for panel in panels
            for query in panel.queries
        ],
        rules=await asked.rules(),
        seconds=now - began,
        requests=requests,
        under_way=under_way.value,
        version=await asked.version(),
    )


async def _series(asked: Prometheus, query: Query, began: float, now: float) -> list[Series]:
    found = await asked.query(as_grafana_asks(query.promql, now - began), at=now)
    numbers = [series for series in found if not math.isnan(series.value)]
    return sorted(numbers, key=lambda series: -series.value)


def as_grafana_asks(promql: str, seconds: float) -> str:
    """Return the query with all chosen of each variable, over so many seconds."""
    whole = math.ceil(seconds)
    for variable, value in (
        ("$__rate_interval", f"{whole}s"),
        ("$__range_s", str(whole)),
        ("$__range", f"{whole}s"),
    ):
        promql = promql.replace(variable, value)
    return re.sub(r"\$(instance|model|upstream)\b", ".*", promql)
