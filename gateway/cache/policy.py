"""Whether the answer of an exchange may be kept, and under which key: no store is asked."""

from __future__ import annotations

from typing import Literal, NamedTuple

from gateway import config
from gateway.cache.keeper import Place
from gateway.cache.keys import (
    Ingredients,
    digest,
    ingredients,
    lock_key,
    scope_of,
    storage_key,
)
from gateway.exchange import Exchange, Job, Route
from gateway.tapes import Recipe

Obstacle = Literal["unwanted", "ttl_zero", "unseeded"]


class Use(NamedTuple):
    """What the cache does for an exchange. `obstacle`: why it does nothing."""

    obstacle: Obstacle | None
    is_read: bool
    is_written: bool


class Policy:
    """What the settings and the client want of the cache."""

    def __init__(self, settings: config.Cache) -> None:
        self._settings = settings

    def use(self, exchange: Exchange, route: Route, job: Job) -> Use:
        """Return what the cache does for an exchange.

        One that may not wait, or wants nothing but what is kept, has nothing made that is kept:
        it must not be made to wait for another's answer, nor the other way round.
        """
        obstacle, directives = self._obstacle(exchange, route, job), exchange.directives
        may_make = exchange.wait_for_model and not directives.only_if_cached
        is_used = obstacle is None
        return Use(obstacle, is_used and directives.reads, is_used and may_make)

    def place(self, exchange: Exchange, route: Route, recipe: Recipe) -> Place:
        """Return where the answer to `recipe` is kept. Takes 1 ms per MB."""
        names = self._names(exchange, route)
        name = digest(recipe, **names)
        return Place(
            digest=name,
            storage_key=storage_key(name, model=names["model"], scope=names["scope"]),
            lock_key=lock_key(name),
            ttl_seconds=route.model.cache_ttl_seconds,
        )

    def ingredients(self, exchange: Exchange, route: Route, recipe: Recipe) -> Ingredients:
        """Return what the key of `recipe` is made of."""
        return ingredients(recipe, **self._names(exchange, route))

    def _obstacle(self, exchange: Exchange, route: Route, job: Job) -> Obstacle | None:
        if exchange.directives.bypass:
            return "unwanted"
        if route.model.cache_ttl_seconds <= 0:
            return "ttl_zero"
        return None if job.is_repeatable or self._settings.unseeded else "unseeded"

    def _names(self, exchange: Exchange, route: Route) -> dict[str, str]:
        caller = exchange.caller
        return {
            "scope": scope_of(self._settings.scope, caller.id, caller.team),
            "task": exchange.task,
            "model": route.model.id,
            "target": route.target.model,
        }
