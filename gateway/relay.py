"""The life of a request: from its model's name to an upstream, and back.

Every request takes this way, whatever its task and the protocol that it came by.
"""

from __future__ import annotations

import asyncio

from adapters.errors import TimedOut, UpstreamError
from gateway.admission import MeteredFrames
from gateway.amounts import Usage
from gateway.cache.cache import Cache, NoCache
from gateway.errors import GatewayError, from_upstream
from gateway.exchange import UNCHANGED, Answer, Body, Exchange, Job, Route, TaskAnswer
from gateway.found import Found
from gateway.metering import Meter, Unmetered
from gateway.upstreams.attempts import Attempts
from gateway.upstreams.catalog import Catalog


class Relay:
    """Sends exchanges on, and brings back a whole body or a stream of pieces.

    `attempts`: how many targets one exchange may be sent to.
    """

    def __init__(
        self,
        catalog: Catalog,
        cache: Cache | NoCache,
        meter: Meter | Unmetered,
        tasks: TaskAnswer,
        *,
        attempts: int = 3,
    ) -> None:
        self._catalog = catalog
        self._cache = cache
        self._meter = meter
        self._tasks = tasks
        self._attempts = attempts

    async def __call__(self, exchange: Exchange) -> Body | MeteredFrames:
        """Return the answer; a stream is closed by whoever gets it.

        Raises GatewayError, but never once a stream has begun.
        """
        model = await self._catalog.resolve(exchange.model, exchange.caller, task=exchange.task)
        attempts = Attempts(self._catalog, exchange, model, most=self._attempts)
        route = attempts.first()
        job = await self._tasks.prepare(exchange, route)
        async with (
            await self._find(exchange, route, job) as found,
            await self._meter.admit(exchange, route, job.estimate) as admission,
        ):
            return await admission.deliver(await self._answer(exchange, attempts, job, found))

    async def _answer(
        self, exchange: Exchange, attempts: Attempts, job: Job, found: Found
    ) -> Answer:
        """Return the answer of the first target that has one. Raises GatewayError."""
        try:
            return await _made(job, found)
        except UpstreamError as exc:
            error = exc
        seconds = attempts.patience_seconds
        while exchange.age_seconds < seconds and (route := await attempts.after(error)):
            try:
                async with asyncio.timeout(seconds - exchange.age_seconds):
                    return await self._again(exchange, route)
            except UpstreamError as exc:
                error = exc
            except TimeoutError:
                error = TimedOut("No upstream has answered in time.")
                break
            except GatewayError:  # what this one cannot be asked, another could: tell of that
                break
        raise from_upstream(error) from error

    async def _again(self, exchange: Exchange, route: Route) -> Answer:
        exchange.usage = Usage()
        job = await self._tasks.prepare(exchange, route)
        async with await self._find(exchange, route, job) as found:
            return await _made(job, found)

    async def _find(self, exchange: Exchange, route: Route, job: Job) -> Found:
        found = exchange.found = await self._cache.find(exchange, route, job)
        return found


async def _made(job: Job, found: Found) -> Answer:
    return UNCHANGED if found.is_unchanged else await job.answer(found.tapes)
