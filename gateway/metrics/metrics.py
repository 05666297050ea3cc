"""The metrics of one application: who counts, what is looked at, and how it is told."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from prometheus_client import values

from gateway import __version__
from gateway.config import Settings
from gateway.metrics import figures, sampling
from gateway.metrics.calls import Calls
from gateway.metrics.dead import add_up
from gateway.metrics.exposition import Exposition
from gateway.metrics.keys import Keys, Places
from gateway.metrics.registry import Series
from gateway.metrics.requests import Requests
from gateway.metrics.room import reserve
from gateway.metrics.sampling import Look, Sampler

if TYPE_CHECKING:
    from gateway.book import Book
    from gateway.store import Stores
    from gateway.upstreams.catalog import Catalog

logger = logging.getLogger(__name__)


class Metrics:
    """Everything that counts: `requests` as an observer, `calls` as the upstreams' watcher.

    Inside `async with` gauges are kept up to date. In a process that has PROMETHEUS_MULTIPROC_DIR
    values are in files there, of this and all other workers, and outlive them; `worker` tells
    them apart.
    """

    def __init__(self, settings: Settings, *, worker: str = "") -> None:
        self._folder = folder = _shared_folder(models=len(settings.models))
        self._series = series = Series()
        keys = None
        if settings.metrics.per_key:
            keys = Keys(series, Places(settings.metrics.most_keys, folder))
        self.requests = Requests(series, [model.id for model in settings.models], keys)
        self.calls = Calls(series)
        self._looks: list[Look] = [
            sampling.under_way(series, self.requests),
            sampling.process(series, worker),
        ]
        self._questions: list[figures.Question] = []
        self._exposition = Exposition(series.registry, folder, lambda: figures.ask(self._questions))
        series.gauge("dragoman_build_info", __version__).set(1)

    def follow(self, catalog: Catalog, cache_troubles: Callable[[], Mapping[str, int]]) -> None:
        """Look at the upstreams, and count what goes wrong in the cache."""
        self.calls.know(catalog.models)
        self.requests.expect(catalog.models)
        self._looks.append(sampling.upstreams(self._series, catalog))
        self.count_growth("dragoman_cache_errors_total", cache_troubles)

    def follow_stores(self, stores: Stores, book: Book, spool: Path | None) -> None:
        """Look at the stores, and ask them when metrics are told; and the folder of the spool."""
        self._looks.append(sampling.stores_available(self._series, stores))
        self._questions += figures.questions_for(stores, book, spool)

    def count_growth(self, name: str, count: Callable[[], Mapping[str, int]]) -> None:
        """Let a counter follow what someone else counts, by the value of its label, "" for none."""
        self._looks.append(sampling.growth(self._series, name, count))

    def store_latency(self, store: str) -> Callable[[float], None]:
        """Return what hears the seconds of each write to the `state` or the `cache` store."""
        return self._series.observer("dragoman_store_duration_seconds", store)

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics as text, and its content type, by a request's `Accept`."""
        return await self._exposition.render(accept)

    async def __aenter__(self) -> Self:
        self._sampler = Sampler(*self._looks)
        await self._sampler.__aenter__()
        # Only where workers begin can dead ones become many.
        self._adding_up = asyncio.create_task(self._add_up(), name="metrics of dead workers")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sampler.__aexit__()
        await self._exposition.aclose()
        await self._adding_up

    async def _add_up(self) -> None:
        if self._folder:
            try:
                await asyncio.to_thread(add_up, self._folder)
            except OSError as error:
                logger.warning("what dead workers have counted is not added up: %s", error)


def _shared_folder(*, models: int) -> Path | None:
    """Return where the workers keep what they count, with room in it for this one."""
    # prometheus_client looks for the same variable.
    given = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if given is None:
        return None
    try:
        reserve(Path(given), models=models)
    except OSError as error:
        logger.error("what this worker counts is not told, as there is no room: %s", error)
        values.ValueClass = values.MutexValue  # not in files, so that no page can be missing
    return Path(given)
