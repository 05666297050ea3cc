"""One pipelined connection to a Valkey or Redis server, which all callers of a process share.

What is sent during one turn of the event loop leaves in one write, and replies are matched to
commands by their order. A call so costs 2 to 5 µs of CPU with 64 under way and 10 alone, where
redis-py's own client takes 60 to 90 (for a pool, locks, retries and events around each command).
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable
from functools import partial
from typing import Any

from gateway.address import Address, Command
from gateway.connection import Call, Connection, Redirect, Script, fail
from gateway.store_errors import StoreError, StoreRefused, StoreUnavailable

__all__ = ["Call", "Link", "Script", "StoreError", "StoreRefused", "StoreUnavailable", "failed"]


class Link:
    """A connection that is made when it is needed, and made anew after it was lost.

    It is for commands that are answered at once: neither blocking ones nor subscriptions.
    Connecting and answering may each take `timeout_seconds`. One command that takes longer loses
    the connection and with it all that is `pending`, since what waits behind it would wait too.
    `on_failure` is told why, and how many failures it was: each call that was not answered in
    time is one, and so is a lost or refused connection, and a reply that nothing is served now.
    `on_redirect` gets a call that a cluster's server does not take, and either sees to its future
    or returns what to fail it with. `on_answered` is told the seconds from each write to the last
    reply to it.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_seconds: float = 0.25,
        pending_limit: int = 10_000,
        on_failure: Callable[[str, int], None] = lambda reason, count: None,
        on_redirect: Redirect = lambda call, error: error,
        on_answered: Callable[[float], None] | None = None,
    ) -> None:
        self._pending_limit = pending_limit
        self._connect = partial(
            Connection,
            address,
            timeout_seconds=timeout_seconds,
            on_failure=on_failure,
            on_redirect=on_redirect,
            on_answered=on_answered,
        )
        self._connection: Connection | None = None
        self._is_closed = False

    def send(self, command: Command, script: Script | None = None) -> Future[Any]:
        """Send a command; its future has bytes, an int, None, a list of these, or a StoreError.

        `command` may be the EVALSHA of `script`: a server that does not know it gets the text.
        Cancelling the future takes nothing back. Raises TypeError and UnicodeEncodeError for
        arguments that cannot be sent.
        """
        connection = self._connection
        if (
            connection is None
            or connection.is_lost
            or len(connection.pending) >= self._pending_limit
        ):
            try:
                connection = self._usable()
            except StoreUnavailable as error:
                return failed(str(error))
        future = connection.loop.create_future()
        connection.queue((future, command, script, 0))
        return future

    def take(self, call: Call, *, is_asking: bool = False) -> None:
        """Send a call that has its future already.

        `is_asking`: the server is to take it though what it is about is still on its way there.
        """
        try:
            connection = self._usable()
        except StoreUnavailable as error:
            fail(call, str(error))
            return
        if is_asking:
            connection.queue((_nobody(), (b"ASKING",), None, 0))
        connection.queue(call)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is pending."""
        return self._connection is None or not self._connection.pending

    def drop(self, reason: str) -> None:
        """Lose the connection, if there is one: what is pending fails, the next call connects."""
        if self._connection is not None:
            self._connection.lose(reason)

    async def aclose(self) -> None:
        """Close for good; what is pending fails, and so does what is sent later."""
        self._is_closed = True
        if self._connection is not None:
            await self._connection.aclose()

    def _usable(self) -> Connection:
        """Return a connection that takes one more call. Raises StoreUnavailable."""
        connection = self._connection
        if connection is None or connection.is_lost:
            if self._is_closed:
                raise StoreUnavailable("the connection to the store is closed")
            connection = self._connection = self._connect()
        if len(connection.pending) >= self._pending_limit:
            raise StoreUnavailable(f"{self._pending_limit} commands wait for the store already")
        return connection


def failed(reason: str) -> Future[Any]:
    """Return a future that is StoreUnavailable already."""
    future = asyncio.get_running_loop().create_future()
    future.set_exception(StoreUnavailable(reason))
    return future


def _nobody() -> Future[Any]:
    """Return what stands for a reply that nobody waits for."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    return future
