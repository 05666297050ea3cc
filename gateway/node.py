"""One server of a store: a connection, and a breaker that spares its callers the wait."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Future
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.address import Address, Argument, Command
from gateway.breaker import Breaker
from gateway.connection import Call, Redirect, Script, fail
from gateway.link import Link, failed
from gateway.store_errors import StoreError, StoreRefused, StoreUnavailable

logger = logging.getLogger(__name__)

PING = (b"PING",), b"PONG"
"""A question that every server answers, and what has to be in the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How the servers of a store are asked: see `gateway.store.Store`. `name` is for the log."""

    name: str
    timeout_seconds: float
    probe_seconds: float
    clock: Callable[[], float] = time.monotonic
    on_latency: Callable[[float], None] | None = None


class Node:
    """A server that is asked until it fails too often, and then not before it answers a probe.

    `on_change` is told whether it is asked from now on, `on_failure` of each time that it fails.
    """

    def __init__(
        self,
        address: Address,
        terms: Terms,
        *,
        on_change: Callable[[bool], None],
        on_failure: Callable[[], None] = lambda: None,
        on_redirect: Redirect | None = None,
        probe: tuple[Command, bytes] = PING,
    ) -> None:
        """Connect to nothing yet."""
        self.address = address
        self._terms = terms
        self._on_change = on_change
        self._on_failure = on_failure
        self._probe = probe
        self._link = Link(
            address,
            timeout_seconds=terms.timeout_seconds,
            on_failure=self._fail,
            on_redirect=on_redirect or _not_a_cluster,
            on_answered=terms.on_latency,
        )
        self._breaker = Breaker(
            self._answers,
            on_change=self._change,
            pause_seconds=terms.probe_seconds,
            clock=terms.clock,
        )
        self._reason = ""

    @property
    def is_available(self) -> bool:
        """Whether calls are sent, as far as is known now."""
        return not self._breaker.is_open

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._link.is_idle

    def send(self, command: Command, script: Script | None = None) -> Future[Any]:
        """Send a command, maybe the EVALSHA of `script`, and return the future reply."""
        if self._breaker.is_open:
            return failed(self._reason)
        return self._link.send(command, script)

    def take(self, call: Call, *, is_asking: bool = False) -> None:
        """Send a call that has its future already: see `Link.take`."""
        if self._breaker.is_open:
            fail(call, self._reason)
        else:
            self._link.take(call, is_asking=is_asking)

    async def masters(self) -> list[Node]:
        """Return all servers that hold something: this one."""
        return [self]

    async def address_of(self, key: Argument) -> Address:
        """Return where the server of a key listens."""
        return self.address

    async def ping(self) -> int:
        """Probe the server on a connection of its own; return how many do not answer: none.

        Raises StoreError, also while calls are not sent.
        """
        await self._ask(self._terms.timeout_seconds)
        if self._breaker.is_open:
            raise StoreUnavailable(self._reason)
        return 0

    async def aclose(self) -> None:
        """Close the connection for good; calls under way and later ones fail."""
        await self._breaker.aclose()
        await self._link.aclose()

    async def _ask(self, seconds: float) -> None:
        question, wanted = self._probe
        answer = await ask(self.address, question, seconds, self._terms.timeout_seconds)
        if wanted not in answer:
            raise StoreUnavailable(f"the store does not say {wanted.decode()!r}")

    async def _answers(self) -> bool:
        try:
            # As long as a first call may take: connecting and answering have a timeout each.
            await self._ask(2 * self._terms.timeout_seconds)
        except StoreError:
            return False
        return True

    def _fail(self, reason: str, count: int) -> None:
        self._reason = reason
        self._breaker.fail(count)
        self._on_failure()

    def _change(self, is_available: bool) -> None:
        if is_available:
            logger.warning("%s answers again", self._terms.name)
        else:
            logger.warning("%s is not asked for now: %s", self._terms.name, self._reason)
            self._link.drop(self._reason)
        self._on_change(is_available)


async def ask(address: Address, command: Command, seconds: float, timeout_seconds: float) -> Any:
    """Return the reply to a command, on a connection of its own, within `seconds` in all.

    Connecting and answering may each take `timeout_seconds`. Raises StoreError.
    """
    link = Link(address, timeout_seconds=timeout_seconds)
    try:
        async with asyncio.timeout(seconds):
            return await link.send(command)
    except TimeoutError:
        raise StoreUnavailable("no answer in time") from None
    finally:
        await link.aclose()


def _not_a_cluster(call: Call, error: StoreRefused) -> StoreError:
    return StoreUnavailable(
        "the server is a node of a cluster: begin the store's URL with redis+cluster://, "
        "or rediss+cluster:// for TLS"
    )
