"""Where one exchange goes first, and where it goes after a failure.

    what came                      | same target again | another target, then a fallback model
    -------------------------------|-------------------|--------------------------------------
    no connection, or it was cut   | once, if it is    | yes
      before the first byte        |   the only one    |
    took too long, 5xx, 424, 429   | no                | yes
    the model is loading           | waited for, if no | yes, before anything is waited for
                                   |   other can do it |
    no such model, 401, 402, 403   | no                | yes
    any other 4xx                  | no                | no: the client must mend it

Nothing is tried again once the client has been sent anything. What made an upstream work counts
against the model's retry budget.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import SystemRandom

from adapters.errors import (
    HungUp,
    Misconfigured,
    ModelLoading,
    ModelMissing,
    OutOfCredits,
    Rejected,
    Unreachable,
    UpstreamError,
)
from gateway.errors import BadRequest
from gateway.exchange import Exchange, Route
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.choice import choose, least_unfit
from gateway.upstreams.target import Model, Target

_WITHOUT_WORK = (Unreachable, ModelLoading, ModelMissing, Misconfigured, OutOfCredits)
_CONNECTION_LOST = (Unreachable, HungUp)
_PAUSE_SECONDS = 0.05, 0.15


class Attempts:
    """The routes of one exchange, at most `most` of them."""

    def __init__(self, catalog: Catalog, exchange: Exchange, model: Model, *, most: int) -> None:
        self._catalog = catalog
        self._exchange = exchange
        self._model = model
        self._most = most
        self._made: list[Target] = []
        self._loading: Route | None = None
        self._stand_ins = deque(model.fallbacks)

    @property
    def patience_seconds(self) -> float:
        """How long all attempts together may take."""
        upstream = self._made[0].upstream
        return upstream.timeout_seconds + upstream.load_wait_seconds

    def first(self) -> Route:
        """Return where to go. Raises BadRequest if no target knows such requests."""
        route = self._first()
        self._model.retries.deposit()
        return route

    def foreseen(self) -> Iterator[Route]:
        """Yield where to go, and where next should each upstream fail; nothing is counted.

        Raises as `first`.
        """
        route: Route | None = self._first()
        while route:
            yield route
            if len(self._made) >= self._most:
                return
            route = self._other(route.model) or self._stand_in()

    def _first(self) -> Route:
        able = self._able(self._model)
        if not able:
            raise BadRequest(
                f"The upstream of the model {self._model.id!r} cannot be asked for this.",
                code="unsupported_task",
                param="model",
            )
        return self._route(self._model, choose(able, self._exchange.task) or least_unfit(able))

    async def after(self, error: UpstreamError) -> Route | None:
        """Return where to go after a failure, None if that is the end of it."""
        route = self._exchange.route
        if isinstance(error, Rejected) or len(self._made) >= self._most or route is None:
            return None
        if isinstance(error, ModelLoading) and not route.waits:
            self._loading = self._loading or replace(route, waits=True)
        onward = self._other(route.model) or self._same(route, error) or self._stand_in()
        if onward is None and self._loading and self._exchange.wait_for_model:
            onward, self._loading = self._loading, None
        if onward is None or not self._may_retry(error):
            return None
        if onward.target is route.target:
            await asyncio.sleep(SystemRandom().uniform(*_PAUSE_SECONDS))
        self._exchange.retries += 1
        return onward

    def _other(self, model: Model) -> Route | None:
        """Return a way to a target that was not tried yet."""
        target = choose(self._able(model), self._exchange.task, but=self._made)
        return self._route(model, target) if target else None

    def _same(self, route: Route, error: UpstreamError) -> Route | None:
        """Return the same way again, if only the connection was lost, for the first time."""
        target = route.target
        is_tried = self._made.count(target) > 1
        if is_tried or not isinstance(error, _CONNECTION_LOST) or target.health.is_resting:
            return None
        return self._route(route.model, target)

    def _stand_in(self) -> Route | None:
        """Return a way to the next model that may answer instead."""
        while self._stand_ins:
            model = self._catalog.find(self._stand_ins.popleft(), self._exchange.caller)
            if model and (route := self._other(model)):
                return route
        return None

    def _able(self, model: Model) -> Sequence[Target]:
        """Return the targets that know such requests."""
        return [one for one in model.targets if self._exchange.can_go_to(one.upstream)]

    def _route(self, model: Model, target: Target) -> Route:
        """Go there. It is waited for while it loads, unless something else can be tried."""
        self._made.append(target)
        others = [one for one in self._able(model) if one not in self._made]
        has_other = choose(others, self._exchange.task) is not None
        return Route(model, target, waits=not (has_other or self._stand_ins))

    def _may_retry(self, error: UpstreamError) -> bool:
        """Tell whether the budget allows it. Those who share another's call share its retry too."""
        found = self._exchange.found
        is_free = isinstance(error, _WITHOUT_WORK) or (found is not None and found.is_free)
        return is_free or self._model.retries.withdraw()
