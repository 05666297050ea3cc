"""One visit to a gateway: start it, put every workload on it, end it.

CPU is that of the whole process tree, so a store that the gateway runs counts as its own.

    CPU per request  = CPU of a run of whole answers / its requests
    CPU per token    = (CPU of a run of streams - its streams * CPU per request) / its tokens

The second takes off what a request costs anyway. What beginning and ending a stream costs beyond
a whole answer stays in, spread over its tokens. Every prompt but that of the hits is new, and
every answer one that a cache may keep: looking it up and storing it are in the figures.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench import proc
from tests.bench.client import Target
from tests.bench.gateways import Launch
from tests.bench.load import Result, Workload, run
from tests.bench.running import Running, running
from tests.bench.upstream import HOST, Upstream

_REPEATED = "Which fruit keeps best?"
_REST_SECONDS = 0.5
_RESTING_LOAD = 0.05
_LONGEST_REST = 8


class Miscounted(Exception):
    """The upstream was called more or less often than the workload says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The workloads of one visit; in `hits` every request is the same."""

    warm_up: Workload
    whole: Workload
    hits: Workload
    streams: Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What one visit measured; `hit_us` is None when nothing was cached."""

    request_us: float
    token_us: float
    hit_us: float | None
    requests_per_second: float
    tokens_per_second: float
    latency_seconds: list[float]
    first_token_seconds: list[float]
    health_seconds: float
    answer_seconds: float
    rss_mib: float
    pss_mib: float
    largest_mib: float


@dataclass(frozen=True, slots=True)
class Bench:
    """The surroundings of a visit. `core` is the gateway's, None to leave it unpinned."""

    upstream: Upstream
    prompts: Iterator[str]
    core: int | None

    async def direct(self, workload: Workload) -> Result:
        """Put `workload` on the upstream itself."""
        target = Target(host=HOST, port=self.upstream.port)
        return await run(target, workload, self.prompts)

    async def visit(self, launch: Launch, plan: Plan, *, log: Path) -> Visit:
        """Measure one start and one run of every workload.

        Raises Unavailable, Miscounted, and as `load.run` does.
        """
        async with running(launch, log=log, core=self.core) as gateway:
            await self._load(gateway, plan.warm_up)
            whole, whole_cpu = await self._load(gateway, plan.whole)
            hit_us = await self._hit_us(gateway, plan.hits)
            streams, streams_cpu = await self._load(gateway, plan.streams)
            memory = proc.memory(gateway.pid)
        request_cpu = whole_cpu / whole.requests
        return Visit(
            request_us=request_cpu * 1e6,
            token_us=(streams_cpu - streams.requests * request_cpu) / streams.tokens * 1e6,
            hit_us=hit_us,
            requests_per_second=whole.requests / whole.seconds,
            tokens_per_second=streams.tokens / streams.seconds,
            latency_seconds=whole.latency_seconds,
            first_token_seconds=streams.first_token_seconds,
            health_seconds=gateway.health_seconds,
            answer_seconds=gateway.answer_seconds,
            rss_mib=sum(process.rss_mib for process in memory),
            pss_mib=sum(process.pss_mib for process in memory),
            largest_mib=memory[0].rss_mib,
        )

    async def _load(self, gateway: Running, workload: Workload) -> tuple[Result, float]:
        """Return what a run of new prompts measured, and the CPU seconds it took."""
        result, cpu_seconds, calls = await self._run(gateway, workload, self.prompts)
        _expect_calls(calls, result.requests)
        return result, cpu_seconds

    async def _hit_us(self, gateway: Running, workload: Workload) -> float | None:
        """Return the CPU of an answer from the cache, None if the same was asked upstream twice."""
        prompts = itertools.repeat(_REPEATED)
        once = replace(workload, connections=1, count=1)
        for _ in range(2):
            _, _, calls = await self._run(gateway, once, prompts)
        if calls:
            return None
        result, cpu_seconds, calls = await self._run(gateway, workload, prompts)
        _expect_calls(calls, 0)
        return cpu_seconds / result.requests * 1e6

    async def _run(
        self, gateway: Running, workload: Workload, prompts: Iterator[str]
    ) -> tuple[Result, float, int]:
        """Return the result, the CPU seconds of the gateway and its calls of the upstream."""
        calls = self.upstream.calls
        cpu_seconds = proc.cpu_seconds(gateway.pid)
        result = await run(gateway.target, workload, prompts)
        cpu_seconds = await _settled_cpu_seconds(gateway.pid) - cpu_seconds
        return result, cpu_seconds, self.upstream.calls - calls


async def _settled_cpu_seconds(pid: int) -> float:
    """Return the CPU time once the tree has come to rest, or after a few seconds.

    What a gateway puts off until it has answered, as writing its ledger, counts with the run
    that caused it and not with the next.
    """
    used = proc.cpu_seconds(pid)
    for _ in range(_LONGEST_REST):
        await asyncio.sleep(_REST_SECONDS)
        before, used = used, proc.cpu_seconds(pid)
        if used - before < _RESTING_LOAD * _REST_SECONDS:
            break
    return used


def _expect_calls(calls: int, expected: int) -> None:
    if calls != expected:
        raise Miscounted(f"the upstream had {calls} calls instead of {expected}")
