"""The two stores, state and cache: Valkey or Redis, asked with short patience.

redis-py's defaults would break a gateway: ten retries with back-off and five seconds of patience
make a hung server cost over a minute, and its pool raises at the hundredth connection. What every
request asks is asked over a connection of our own: see `gateway.link`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any, Self

from gateway.address import Address, Argument
from gateway.breaker import Breaker
from gateway.link import (
    Link,
    Script,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    failed,
)

__all__ = ["Script", "Store", "StoreError", "StoreRefused", "StoreUnavailable", "Stores"]

_PATIENCE_SECONDS = 0.25
_CACHE_PATIENCE_SECONDS = 0.05

logger = logging.getLogger(__name__)


class Store:
    """A store, over one connection that is made when it is needed.

    A call fails with StoreUnavailable after `timeout_seconds`. Three failures within a second,
    and calls fail at once until the server answers again; it is asked every `probe_seconds`.
    `on_change` is called with `is_available` whenever that changes.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "the state store",
        timeout_seconds: float = _PATIENCE_SECONDS,
        probe_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect to nothing yet. `url` is one that redis-py takes; raises ValueError."""
        self.on_change: Callable[[bool], None] | None = None
        self._name = name
        self._address = Address.parse(url)
        self._timeout_seconds = timeout_seconds
        self._link = Link(self._address, timeout_seconds=timeout_seconds, on_failure=self._fail)
        self._breaker = Breaker(
            self._answers, on_change=self._change, pause_seconds=probe_seconds, clock=clock
        )
        self._reason = ""

    @property
    def is_available(self) -> bool:
        """Whether calls are sent, as far as is known now."""
        return not self._breaker.is_open

    def call(self, *command: Argument) -> Future[Any]:
        """Send a command and return the future reply: bytes, an int, None, or a list of these.

        Calls that are made without an await in between arrive in this order. Cancelling one takes
        nothing back. Not for commands that block, nor for subscriptions. The future raises
        StoreUnavailable or StoreRefused, `call` itself TypeError for what is no argument.
        """
        if self._breaker.is_open:
            return failed(self._reason)
        return self._link.send(command)

    def run(
        self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]
    ) -> Future[Any]:
        """Run a script; like `call`. A server that does not know the script is told it."""
        if self._breaker.is_open:
            return failed(self._reason)
        return self._link.send((b"EVALSHA", script.sha, len(keys), *keys, *args), script)

    async def ping(self) -> None:
        """Ask whether the server answers, on a connection of its own. Raises StoreError.

        It raises too while calls are not sent, though the server may have recovered by now.
        """
        await self._ping(self._timeout_seconds)
        if self._breaker.is_open:
            raise StoreUnavailable(self._reason)

    async def aclose(self) -> None:
        """Close the connection for good; calls under way and later ones fail."""
        await self._breaker.aclose()
        await self._link.aclose()

    async def _ping(self, seconds: float) -> None:
        link = Link(self._address, timeout_seconds=self._timeout_seconds)
        try:
            async with asyncio.timeout(seconds):
                await link.send((b"PING",))
        except TimeoutError:
            raise StoreUnavailable("no answer in time") from None
        finally:
            await link.aclose()

    async def _answers(self) -> bool:
        try:
            # As long as a first call may take: connecting and answering have a timeout each.
            await self._ping(2 * self._timeout_seconds)
        except StoreError:
            return False
        return True

    def _fail(self, reason: str, count: int) -> None:
        self._reason = reason
        self._breaker.fail(count)

    def _change(self, is_available: bool) -> None:
        if is_available:
            logger.warning("%s answers again", self._name)
        else:
            logger.warning("%s is not asked for now: %s", self._name, self._reason)
            self._link.drop(self._reason)
        if self.on_change is not None:
            self.on_change(is_available)


class Stores:
    """Clients of both stores; connections are made when they are needed.

    The cache is asked with less patience: an upstream can do what it does.
    """

    def __init__(self, *, state_url: str, cache_url: str) -> None:
        self.state = Store(state_url)
        self.cache_url = cache_url
        self.cache = Store(
            cache_url, name="the cache store", timeout_seconds=_CACHE_PATIENCE_SECONDS
        )

    async def missing(self) -> list[str]:
        """Return which of the stores do not answer, after a quarter of a second at most."""
        state, cache = await asyncio.gather(
            self.state.ping(), self.cache.ping(), return_exceptions=True
        )
        return [
            f"{name}: {type(answer).__name__}"
            for name, answer in (("state store", state), ("cache store", cache))
            if isinstance(answer, BaseException)
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.state.aclose()
        await self.cache.aclose()
