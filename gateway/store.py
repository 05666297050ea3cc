"""The two stores, state and cache: Valkey or Redis, asked with short patience.

redis-py's defaults would break a gateway: ten retries with back-off and five seconds of patience
make a hung server cost over a minute, and its pool raises at the hundredth connection. What every
request asks is asked over a connection of our own: see `gateway.link`.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, Self

from gateway.address import Address, Argument, Command, names_cluster
from gateway.cluster import Cluster
from gateway.connection import Script
from gateway.node import Node, Terms
from gateway.store_errors import StoreError, StoreRefused, StoreUnavailable

__all__ = ["Script", "Store", "StoreError", "StoreRefused", "StoreUnavailable", "Stores"]

_PATIENCE_SECONDS = 0.25
_CACHE_PATIENCE_SECONDS = 0.05


class _Servers(Protocol):
    """What a store is: one server, or a cluster."""

    @property
    def is_available(self) -> bool: ...
    def send(self, command: Command, script: Script | None = None) -> Future[Any]: ...
    async def masters(self) -> list[Node]: ...
    async def address_of(self, key: Argument) -> Address: ...
    async def ping(self) -> int: ...
    async def aclose(self) -> None: ...


class Store:
    """A store: a server, or a cluster of them. Connections are made when they are needed.

    A call fails with StoreUnavailable after `timeout_seconds`. Three failures of a server within
    a second, and its calls fail at once until it answers again; it is asked every `probe_seconds`.
    `on_change` is called with `is_available` whenever that changes, `on_latency` with the seconds
    between each write and the last reply to it.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "the state store",
        timeout_seconds: float = _PATIENCE_SECONDS,
        probe_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        on_latency: Callable[[float], None] | None = None,
    ) -> None:
        """Connect to nothing yet. Raises ValueError.

        `url` is one that redis-py takes, or `redis+cluster://` (`rediss+cluster://` for TLS) with
        some servers of a cluster: see `Address.parse_seeds`.
        """
        self.on_change: Callable[[bool], None] | None = None
        self.is_cluster = names_cluster(url)
        terms = Terms(
            name=name,
            timeout_seconds=timeout_seconds,
            probe_seconds=probe_seconds,
            clock=clock,
            on_latency=on_latency,
        )
        self._servers: _Servers
        if self.is_cluster:
            self._servers = Cluster(Address.parse_seeds(url), terms, on_change=self._change)
        else:
            self._servers = Node(Address.parse(url), terms, on_change=self._change)
        self._send = self._servers.send

    @property
    def is_available(self) -> bool:
        """Whether calls are sent, as far as is known now; on a cluster, to any of its masters."""
        return self._servers.is_available

    def call(self, *command: Argument) -> Future[Any]:
        """Send a command and return the future reply: bytes, an int, None, or a list of these.

        Calls that are made without an await in between arrive in this order, those of one key on
        a cluster too. There a call without a key goes to any master. Cancelling one takes nothing
        back. Not for commands that block, nor for subscriptions. The future raises
        StoreUnavailable or StoreRefused, `call` itself TypeError for what is no argument.
        """
        return self._send(command)

    def run(
        self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]
    ) -> Future[Any]:
        """Run a script; like `call`. A server that does not know the script is told it.

        All `keys` have one hash tag.
        """
        return self._send((b"EVALSHA", script.sha, len(keys), *keys, *args), script)

    async def each(self, *command: Argument) -> list[Any]:
        """Send a command to every master and return the replies. Raises StoreError."""
        masters = await self._servers.masters()
        return await asyncio.gather(*(master.send(command) for master in masters))

    async def scan(self, pattern: str, *, page: int = 1000) -> AsyncIterator[list[bytes]]:
        """Yield the keys that match a glob, of one master after the other. Raises StoreError.

        The server looks at `page` keys at a time. A key that is there all the time comes once or
        more often.
        """
        for master in await self._servers.masters():
            cursor = b"0"
            while True:
                cursor, keys = await master.send(
                    (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", page)
                )
                if keys:
                    yield keys
                if cursor == b"0":
                    break

    async def address_of(self, key: Argument) -> Address:
        """Return where the server of a key listens. Raises StoreError."""
        return await self._servers.address_of(key)

    async def ping(self) -> int:
        """Ask on connections of its own; return how many masters of a cluster do not answer.

        Raises StoreError if none does, and also while calls are not sent, though the server may
        have recovered by now.
        """
        return await self._servers.ping()

    async def aclose(self) -> None:
        """Close the connections for good; calls under way and later ones fail."""
        await self._servers.aclose()

    def _change(self, is_available: bool) -> None:
        if self.on_change is not None:
            self.on_change(is_available)


class Stores:
    """Clients of both stores; connections are made when they are needed.

    The cache is asked with less patience: an upstream can do what it does.
    """

    def __init__(
        self,
        *,
        state_url: str,
        cache_url: str,
        on_latency: Callable[[str], Callable[[float], None]] | None = None,
    ) -> None:
        """`on_latency` returns, for `state` and `cache`, what `Store` calls by that name."""
        self.state = Store(state_url, on_latency=on_latency and on_latency("state"))
        self.cache = Store(
            cache_url,
            name="the cache store",
            timeout_seconds=_CACHE_PATIENCE_SECONDS,
            on_latency=on_latency and on_latency("cache"),
        )

    async def missing(self) -> dict[str, str]:
        """Return which of the stores, or what part of one, do not answer, and why.

        It takes a quarter of a second at most once the map of a cluster is known.
        """
        state, cache = await asyncio.gather(
            self.state.ping(), self.cache.ping(), return_exceptions=True
        )
        away = {}
        for name, answer in (("state store", state), ("cache store", cache)):
            if isinstance(answer, BaseException):
                away[name] = type(answer).__name__
            elif answer:
                away[f"part of the {name}"] = f"{answer} of its masters away"
        return away

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.state.aclose()
        await self.cache.aclose()
