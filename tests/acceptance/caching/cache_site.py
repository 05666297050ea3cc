"""A gateway whose cache store goes away: hung, killed, slow or full."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from gateway.cache.inventory import totals
from gateway.config import Settings
from gateway.store import Store
from tests.acceptance.caching.served import store_at
from tests.acceptance.metering.customer import counting
from tests.gateway.state_server import RealServer, program
from tests.metered import Metered, metered_gateway
from tests.scripted_upstream import Upstream
from tests.slow_proxy import SlowProxy

_TOO_LATE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway that reaches its cache store through `network`; `cache` does so directly."""

    metered: Metered
    server: RealServer
    network: SlowProxy
    cache: Store
    upstream: Upstream
    client: httpx.AsyncClient

    async def counted(self, name: str, *, more_than: int = -1) -> int:
        """Return what the gateway has told the store of a count, once it is more than so much."""
        found = await self.metered.until(
            partial(totals, self.cache), lambda counts: counts[name] > more_than
        )
        return int(found[name])

    async def keys(self) -> list[bytes]:
        """Return where answers are kept."""
        found: list[bytes] = await self.cache.call("KEYS", "answer:*")
        return found


@asynccontextmanager
async def open_site(upstream: Upstream, folder: Path, *options: str) -> AsyncIterator[Site]:
    """Run a gateway and a cache server with these options of its own."""
    async with AsyncExitStack() as closing:
        (folder / "c").mkdir()
        server = RealServer(program("valkey"), folder / "c", *options)
        closing.callback(server.kill)
        closing.callback(server.go_on)
        network = await closing.enter_async_context(SlowProxy(server.socket))
        metered = await closing.enter_async_context(
            metered_gateway(settings_of(upstream.url), folder / "d", cache_url=network.url)
        )
        await counting(metered)
        cache = await closing.enter_async_context(store_at(server.url))
        key = await metered.new_key(tokens_per_day=10**9)
        client = await closing.enter_async_context(metered.client(key, verify=False))
        yield Site(metered, server, network, cache, upstream, client)


def settings_of(url: str, **cache: Any) -> Settings:
    """Return settings of one model behind `url`."""
    return Settings.model_validate(
        {
            "cache": cache,
            "upstreams": [{"name": "u", "dialect": "openai", "base_url": f"{url}/v1"}],
            "models": [{"id": "m", "targets": [{"upstream": "u"}]}],
        }
    )


@asynccontextmanager
async def hung(site: Site) -> AsyncIterator[None]:
    """Let the store do nothing, its connections left open."""
    site.server.hang()
    try:
        yield
    finally:
        site.server.go_on()


@asynccontextmanager
async def killed(site: Site) -> AsyncIterator[None]:
    """Kill the store. Its successor knows nothing."""
    site.server.kill()
    try:
        yield
    finally:
        site.server.start()


@asynccontextmanager
async def slow(site: Site) -> AsyncIterator[None]:
    """Let all answers come too late."""
    site.network.latency_seconds = _TOO_LATE_SECONDS
    try:
        yield
    finally:
        site.network.latency_seconds = 0.0


@asynccontextmanager
async def full(site: Site) -> AsyncIterator[None]:
    """Let the store refuse to store."""
    limit = ("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory")
    await site.cache.call(*limit, 1)
    try:
        yield
    finally:
        await site.cache.call(*limit, 0)


Outage = Callable[[Site], AbstractAsyncContextManager[None]]
OUTAGES: tuple[Outage, ...] = (hung, killed, slow, full)
Spoil = Callable[[Store, bytes, bytes], Awaitable[None]]
"""Puts something else at the first key; the second one is another answer's."""


async def other_type(cache: Store, key: bytes, _: bytes) -> None:
    """Put a list there."""
    await cache.call("DEL", key)
    await cache.call("RPUSH", key, "answer")


async def foreign(cache: Store, key: bytes, _: bytes) -> None:
    """Put there what some other program might."""
    await cache.call("SET", key, '{"answer": "42"}')


async def truncated(cache: Store, key: bytes, _: bytes) -> None:
    """Cut the record."""
    value = await cache.call("GET", key)
    await cache.call("SET", key, value[:-5])


async def flipped(cache: Store, key: bytes, _: bytes) -> None:
    """Turn a bit of the answer over."""
    value = bytearray(await cache.call("GET", key))
    value[-20] ^= 1
    await cache.call("SET", key, bytes(value))


async def moved(cache: Store, key: bytes, other: bytes) -> None:
    """Put another answer's record there."""
    await cache.call("COPY", other, key, "REPLACE")
