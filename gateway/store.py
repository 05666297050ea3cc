"""The two stores, state and cache: Valkey or Redis, asked with short patience.

redis-py's defaults would break a gateway: ten retries with back-off and five seconds of patience
make a hung server cost over a minute, and its pool raises at the hundredth connection.
"""

from __future__ import annotations

import asyncio
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

_PATIENCE_SECONDS = 0.25
_CONNECTIONS = 4


class Stores:
    """Clients of both stores; connections are made when they are needed."""

    def __init__(self, *, state_url: str, cache_url: str) -> None:
        self._clients = {"state store": _client(state_url), "cache store": _client(cache_url)}

    async def missing(self) -> list[str]:
        """Return which of the stores do not answer, after a quarter of a second at most."""
        answers = await asyncio.gather(
            *(client.ping() for client in self._clients.values()), return_exceptions=True
        )
        return [
            f"{name}: {type(answer).__name__}"
            for name, answer in zip(self._clients, answers, strict=True)
            if isinstance(answer, RedisError | OSError)
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            await client.aclose()


def _client(url: str) -> Redis:
    return Redis.from_url(
        url,
        max_connections=_CONNECTIONS,
        socket_timeout=_PATIENCE_SECONDS,
        socket_connect_timeout=_PATIENCE_SECONDS,
        retry=Retry(NoBackoff(), 0),
        legacy_responses=False,
    )
