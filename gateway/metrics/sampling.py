"""What is looked at once a second: gauges, and counts that others keep."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from adapters.base import Task
from gateway.metrics.registry import Series
from gateway.metrics.requests import Requests
from gateway.store import Stores
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.target import Model

PERIOD_SECONDS = 1.0
_LAGS = 15  # periods
_PROC = Path("/proc/self")

Look = Callable[[], None]


class Sampler:
    """Looks, while it is entered: each of `looks` in turn, for less than a millisecond in all."""

    def __init__(self, *looks: Look) -> None:
        self._looks = looks

    async def __aenter__(self) -> Self:
        self.look()
        self._looking = asyncio.create_task(self._look_on(), name="metrics")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        self.look()

    def look(self) -> None:
        """Look now."""
        for look in self._looks:
            look()

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            self.look()


def under_way(series: Series, requests: Requests) -> Look:
    """Return what looks at the requests that are not answered."""
    seen = {str(task): 0 for task in ("", *Task)}
    oldest_gauge = series.gauge("dragoman_oldest_request_seconds")
    gauges = {task: series.gauge("dragoman_requests_in_flight", task) for task in seen}

    def look() -> None:
        accesses = list(requests.under_way)
        tasks = Counter(one.exchange.task if one.exchange else "" for one in accesses)
        for task, gauge in gauges.items():
            gauge.set(tasks[task])
        oldest_gauge.set(time.perf_counter() - accesses[0].began if accesses else 0)

    return look


def upstreams(series: Series, catalog: Catalog) -> Look:
    """Return what looks at the queues of upstreams, and whether they are fit to be asked."""
    gauges = [
        (
            one,
            series.gauge("dragoman_upstream_in_flight", one.name),
            series.gauge("dragoman_queue_length", one.name),
        )
        for one in catalog.upstreams
    ]

    def look() -> None:
        # A gate without a limit does not count.
        outstanding: Counter[str] = Counter()
        for target in (target for model in catalog.models for target in model.targets):
            outstanding[target.upstream.name] += target.outstanding
        for upstream, in_flight, waiting in gauges:
            in_flight.set(outstanding[upstream.name])
            waiting.set(upstream.gate.waiting)
        for model in catalog.models:
            for name, is_fit in _fitness(model).items():
                series.gauge("dragoman_upstream_available", name, model.id).set(is_fit)

    return look


def _fitness(model: Model) -> Mapping[str, bool]:
    """Return which upstreams have a target of the model that would be asked now."""
    task = Task(model.task)
    fitness: dict[str, bool] = {}
    for target in model.targets:
        name = target.upstream.name
        fitness[name] = fitness.get(name, False) or target.may_be_asked(task)
    return fitness


def stores_available(series: Series, stores: Stores) -> Look:
    """Return what looks at whether the stores are asked."""
    pairs = [
        (store, series.gauge("dragoman_store_available", name))
        for name, store in (("state", stores.state), ("cache", stores.cache))
    ]

    def look() -> None:
        for store, gauge in pairs:
            gauge.set(store.is_available)

    return look


def growth(series: Series, name: str, count: Callable[[], Mapping[str, int]]) -> Look:
    """Return what adds to a counter by how much `count` has grown, by label; "" is no label."""
    told: dict[str, int] = {}

    def look() -> None:
        for label, value in count().items():
            labels = (label,) if label else ()
            if label not in told or value > told[label]:
                series.counter(name, *labels).inc(value - told.get(label, 0))
                told[label] = value

    return look


def process(series: Series, worker: str) -> Look:
    """Return what looks at this process. Where the system has no `/proc` it tells of the loop."""
    lag = series.gauge("dragoman_event_loop_lag_seconds", worker)
    memory = series.gauge("dragoman_resident_memory_bytes", worker)
    files = series.gauge("dragoman_open_files", worker)
    tasks = series.gauge("dragoman_tasks", worker)
    workers = series.gauge("dragoman_workers")
    lags: deque[float] = deque([0.0], maxlen=_LAGS)
    due: float | None = None

    def look() -> None:
        nonlocal due
        now = time.monotonic()
        lags.append(max(0.0, now - due) if due else 0.0)
        due = now + PERIOD_SECONDS
        workers.set(1)
        lag.set(max(lags))
        tasks.set(len(asyncio.all_tasks()))
        with suppress(OSError):  # no such system, or too many files are open
            memory.set(_resident_bytes())
            files.set(_open_files())

    return look


def _resident_bytes() -> int:
    pages = int((_PROC / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> int:
    folder = _PROC / "fd"
    # From Linux 6.2 on its size is what it holds: to read it takes a millisecond for 3,000.
    return folder.stat().st_size or sum(1 for _ in folder.iterdir())
