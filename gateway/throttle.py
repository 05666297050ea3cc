"""A brake on addresses that keep showing keys which nobody has.

An address may fail a number of times at once and a few times a second for good. Past that its
attempts are delayed by up to a second, a bounded number of them at a time; the others are turned
away. Only what has to be looked up passes here, so a caller who is known never notices.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network

from gateway.errors import Unauthenticated

_BURST = 20
_FAILURES_PER_SECOND = 5.0
_LONGEST_DELAY_SECONDS = 1.0
_MOST_DELAYED = 32
_MOST_DELAYED_IN_ALL = 1024
# Good keys that come all at once, after a start, wait for each other; the bucket counts failures
# only once they are known, so this also bounds by how many an address can overshoot it.
_MOST_AT_ONCE = 8
_MOST_QUEUED = 1024
_LONGEST_NAME = 64  # characters of an address that is none, as a proxy may make up


class TooManyFailures(Exception):
    """The address has shown too many wrong keys: it may try again in `retry_after_seconds`."""

    retry_after_seconds = 1


@dataclass(slots=True)
class _Visitor:
    """One address: its failures as a leaking bucket, and its attempts under way."""

    failures: float = 0.0
    at: float = 0.0
    waiting: int = 0
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MOST_AT_ONCE))


class Throttle:
    """Remembers the failures of the `most_addresses` addresses that came last."""

    def __init__(
        self,
        *,
        most_addresses: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._most_addresses = most_addresses
        self._clock = clock
        self._sleep = sleep
        self._visitors: OrderedDict[str, _Visitor] = OrderedDict()
        self._delayed = 0

    @asynccontextmanager
    async def attempt(self, address: str) -> AsyncIterator[None]:
        """Enclose one attempt from `address`, after a delay if it has failed too often.

        An Unauthenticated that leaves the block is a failure. Raises TooManyFailures.
        """
        visitor = self._visitor(network_of(address))
        await self._enter(visitor)
        try:
            yield
        except Unauthenticated:
            visitor.failures = min(self._failures(visitor) + 1, _BURST + _MOST_DELAYED)
            raise
        finally:
            visitor.room.release()

    async def _enter(self, visitor: _Visitor) -> None:
        if self._may_fail(visitor):
            with _waiting(visitor, most=_MOST_QUEUED):
                await visitor.room.acquire()
            if self._may_fail(visitor):
                return
            visitor.room.release()
        await self._delay(visitor)
        await visitor.room.acquire()

    async def _delay(self, visitor: _Visitor) -> None:
        if self._delayed >= _MOST_DELAYED_IN_ALL:
            raise TooManyFailures
        with _waiting(visitor, most=_MOST_DELAYED):
            excess = self._failures(visitor) + visitor.waiting - _BURST
            self._delayed += 1
            try:
                await self._sleep(min(excess / _FAILURES_PER_SECOND, _LONGEST_DELAY_SECONDS))
            finally:
                self._delayed -= 1

    def _may_fail(self, visitor: _Visitor) -> bool:
        return self._failures(visitor) + 1 <= _BURST

    def _failures(self, visitor: _Visitor) -> float:
        """Return the level of the bucket now."""
        now = self._clock()
        visitor.failures = max(0.0, visitor.failures - (now - visitor.at) * _FAILURES_PER_SECOND)
        visitor.at = now
        return visitor.failures

    def _visitor(self, network: str) -> _Visitor:
        visitor = self._visitors.get(network)
        if visitor is None:
            if len(self._visitors) >= self._most_addresses:
                self._visitors.popitem(last=False)
            visitor = self._visitors[network] = _Visitor(at=self._clock())
        self._visitors.move_to_end(network)
        return visitor


def network_of(address: str) -> str:
    """Return whom an address stands for: IPv6 hands out networks of 64 bits (RFC 4291 §2.5.4)."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:_LONGEST_NAME]
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped:  # how a socket for both kinds names IPv4's
        return str(parsed.ipv4_mapped)
    return str(ip_network((int(parsed), 64), strict=False))


@contextmanager
def _waiting(visitor: _Visitor, *, most: int) -> Iterator[None]:
    if visitor.waiting >= most:
        raise TooManyFailures
    visitor.waiting += 1
    try:
        yield
    finally:
        visitor.waiting -= 1
