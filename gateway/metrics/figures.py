"""What is asked whenever metrics are told: what the stores hold, and what waits for them on disk.

Each of the questions has a quarter of a second. What cannot be had is left out: a gauge that is
absent is seen, one that is wrong is believed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from gateway.accounts import SHARDS, shard_keys
from gateway.book import Book
from gateway.cache.inventory import describe_server
from gateway.drain import Drain
from gateway.metrics.series import BY_NAME
from gateway.spool import size_bytes
from gateway.store import Store, StoreError, Stores

_PATIENCE_SECONDS = 0.25

Question = Callable[[], Awaitable[Mapping[str, float]]]


async def ask(questions: Sequence[Question]) -> list[Family]:
    """Return what all questions have for an answer, by METRICS' names."""
    answers = await asyncio.gather(*map(_answer, questions))
    return [_family(name, value) for answer in answers for name, value in answer.items()]


def questions_for(stores: Stores, book: Book, spool: Path | None) -> list[Question]:
    """Return what there is to be asked."""
    drain = Drain(stores.state, book)

    async def ledger() -> Mapping[str, float]:
        lag = await drain.lag()
        return {
            "dragoman_ledger_lag_records": lag.entries,
            "dragoman_ledger_lag_seconds": lag.oldest_seconds,
        }

    async def leases() -> Mapping[str, float]:
        return {"dragoman_leases_open": await _leases(stores.state)}

    async def cache() -> Mapping[str, float]:
        server = await describe_server(stores.cache)
        return {
            "dragoman_cache_used_bytes": server.used_bytes,
            "dragoman_cache_max_bytes": server.limit_bytes,
            "dragoman_cache_evicted_total": server.evicted_keys,
        }

    async def spooled() -> Mapping[str, float]:
        if spool is None:
            return {}
        return {"dragoman_spool_bytes": await asyncio.to_thread(size_bytes, spool)}

    return [ledger, leases, cache, spooled]


async def _leases(state: Store) -> int:
    """Return how many there are. Raises StoreError."""
    keys = [shard_keys(shard)[1] for shard in range(SHARDS)]
    return sum(await asyncio.gather(*(state.call("HLEN", key) for key in keys)))


async def _answer(question: Question) -> Mapping[str, float]:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await question()
    except (StoreError, OSError):  # of which TimeoutError is one
        return {}


def _family(name: str, value: float) -> Family:
    metric = BY_NAME[name]
    if metric.kind == "counter":
        return CounterMetricFamily(name, metric.help, value=value)
    return GaugeMetricFamily(name, metric.help, value=value)
