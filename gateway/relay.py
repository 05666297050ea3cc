"""The life of a request: from its model's name to an upstream, and back.

Every request takes this way, whatever its task and the protocol that it came by.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapters.base import Task
from adapters.errors import DialectError, UpstreamError
from gateway.admission import MeteredFrames
from gateway.cache.cache import Cache, NoCache
from gateway.catalog import Catalog
from gateway.errors import BadRequest, from_dialect, from_upstream
from gateway.exchange import UNCHANGED, Answer, Body, Exchange, Job, Route, TaskAnswer
from gateway.found import Found
from gateway.metering import Meter, Unmetered


class Relay:
    """Sends exchanges on, and brings back a whole body or a stream of pieces."""

    def __init__(
        self,
        catalog: Catalog,
        cache: Cache | NoCache,
        meter: Meter | Unmetered,
        tasks: Mapping[Task, TaskAnswer],
    ) -> None:
        self._catalog = catalog
        self._cache = cache
        self._meter = meter
        self._tasks = tasks

    async def __call__(self, exchange: Exchange) -> Body | MeteredFrames:
        """Return the answer; a stream is closed by whoever gets it.

        Raises GatewayError, but never once a stream has begun.
        """
        route = exchange.route = self._route(exchange)
        job = await self._prepare(exchange, route)
        async with await self._cache.find(exchange, route, job) as found:
            exchange.found = found
            async with await self._meter.admit(exchange, route, job.estimate) as admission:
                return await admission.deliver(await self._answer(exchange, route, job, found))

    async def _prepare(self, exchange: Exchange, route: Route) -> Job:
        try:
            return await self._tasks[exchange.task].prepare(exchange, route)
        except DialectError as exc:
            raise from_dialect(exc) from None

    async def _answer(self, exchange: Exchange, route: Route, job: Job, found: Found) -> Answer:
        if found.is_unchanged:
            return UNCHANGED
        target, task, is_asked = route.target, exchange.task, not found.is_free
        if is_asked and (refusal := target.refusal(task)):
            raise from_upstream(refusal)
        try:
            answer = await job.answer(found.tapes)
        except UpstreamError as exc:
            if is_asked:
                target.note(task, exc)
            raise from_upstream(exc) from exc
        if is_asked:
            target.note(task, None)
        return answer

    def _route(self, exchange: Exchange) -> Route:
        task = Task.CHAT if exchange.task is Task.COMPLETION else exchange.task
        model = self._catalog.resolve(exchange.body["model"], exchange.caller, task=task)
        target = model.pick()
        if exchange.task not in target.upstream.dialect:
            raise BadRequest(
                f"The upstream of the model {model.id!r} cannot be asked for this.",
                code="unsupported_task",
                param="model",
            )
        return Route(model, target)
