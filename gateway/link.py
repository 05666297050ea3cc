"""One pipelined connection to a Valkey or Redis server, which all callers of a process share.

What is sent during one turn of the event loop leaves in one write, and replies are matched to
commands by their order. A call so costs 2 to 5 µs of CPU with 64 under way and 10 alone, where
redis-py's own client takes 60 to 90 (for a pool, locks, retries and events around each command).

    StoreError
      StoreUnavailable   no connection, no answer in time, or a server that does not serve now
      StoreRefused       the server does not take the command
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from asyncio import Future
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

from gateway.address import Address, Command

# Too short to notice, long enough for one more look into the socket: see `_Connection._watch`.
_SECOND_LOOK_SECONDS = 0.001
# The server is there, but whoever asks it is to act as if it were not.
_NOT_SERVING = frozenset({"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN"})

# hiredis' stub says that commands have one word.
_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)


class StoreError(Exception):
    """The store did not do as asked. The message holds no secret."""


class StoreUnavailable(StoreError):
    """Nothing can be had from the store now. The command may have been done all the same."""


class StoreRefused(StoreError):
    """An error reply. `code` is its first word: `OOM`, `WRONGTYPE`, `ERR` …"""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]


class Script:
    """A Lua script. Servers that have seen its text know it by `sha`."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


class Link:
    """A connection that is made when it is needed, and made anew after it was lost.

    It is for commands that are answered at once: neither blocking ones nor subscriptions.
    Connecting and answering may each take `timeout_seconds`. One command that takes longer loses
    the connection and with it all that is `pending`, since what waits behind it would wait too.
    `on_failure` is told why, and how many failures it was: each call that was not answered in
    time is one, and so is a lost or refused connection, and a reply that nothing is served now.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_seconds: float = 0.25,
        pending_limit: int = 10_000,
        on_failure: Callable[[str, int], None] = lambda reason, count: None,
    ) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._pending_limit = pending_limit
        self._on_failure = on_failure
        self._connection: _Connection | None = None
        self._is_closed = False

    def send(self, command: Command, script: Script | None = None) -> Future[Any]:
        """Send a command; its future has bytes, an int, None, a list of these, or a StoreError.

        `command` may be the EVALSHA of `script`: a server that does not know it gets the text.
        Cancelling the future takes nothing back. Raises TypeError and UnicodeEncodeError for
        arguments that cannot be sent.
        """
        connection = self._connection
        if connection is None or connection.is_lost:
            if self._is_closed:
                return failed("the connection to the store is closed")
            connection = self._connection = _Connection(
                self._address, timeout_seconds=self._timeout_seconds, on_failure=self._on_failure
            )
        if len(connection.pending) >= self._pending_limit:
            return failed(f"{self._pending_limit} commands wait for the store already")
        return connection.send(command, script)

    def drop(self, reason: str) -> None:
        """Lose the connection, if there is one: what is pending fails, the next call connects."""
        if self._connection is not None:
            self._connection.lose(reason)

    async def aclose(self) -> None:
        """Close for good; what is pending fails, and so does what is sent later."""
        self._is_closed = True
        if self._connection is not None:
            await self._connection.aclose()


def failed(reason: str) -> Future[Any]:
    """Return a future that is StoreUnavailable already."""
    future = asyncio.get_running_loop().create_future()
    future.set_exception(StoreUnavailable(reason))
    return future


# A plain tuple, which costs a fifth of any class: the future, its command, the EVALSHA's script.
_Pending = tuple[Future[Any], Command, Script | None]


class _Connection(asyncio.Protocol):
    """One socket, from the first call that needs it until it is lost.

    A successor is another object with its own queue, so that no late reply can reach it.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_seconds: float,
        on_failure: Callable[[str, int], None],
    ) -> None:
        self.is_lost = False
        self.pending: deque[_Pending] = deque()  # oldest first; the last ones are still unsent
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=_parse_error)
        self._unsent: list[bytes] = []
        self._is_ready = False
        self._greeted: Future[list[Any]] = self._loop.create_future()
        self._sent = 0  # how many commands were ever written
        # When each unanswered write began, and what `_sent` was after it. One clock for a whole
        # write: what a busy event loop makes a command wait before it is not the server's fault.
        self._writes = deque([(time.monotonic(), len(address.greeting))])
        self._watchdog: asyncio.TimerHandle | None = self._loop.call_later(
            timeout_seconds, self._watch
        )
        self._transport: asyncio.Transport | None = None
        self._is_gone = asyncio.Event()
        self._opening = self._loop.create_task(self._open())

    def send(self, command: Command, script: Script | None) -> Future[Any]:
        future = self._loop.create_future()
        self._queue((future, command, script))
        return future

    def lose(self, reason: str, *, failures: int = 0) -> None:
        """Close the socket at once. All that is pending fails."""
        if self.is_lost:
            return
        self.is_lost = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._transport is None:
            self._opening.cancel()
        else:  # with the task cancelled as well, uvloop would never call `connection_lost`
            self._transport.abort()
        for future, _, _ in self.pending:
            if not future.done():
                future.set_exception(StoreUnavailable(reason))
        self.pending.clear()
        self._unsent.clear()
        if failures:
            self._on_failure(reason, failures)

    async def aclose(self) -> None:
        """Return when neither a task nor a socket is left."""
        self.lose("the connection to the store is closed")
        await asyncio.wait([self._opening])
        if self._transport is not None:
            await self._is_gone.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = cast("asyncio.Transport", transport)
        if self.is_lost:  # while it was connecting
            connected.abort()
        else:
            self._transport = connected
            self._greet(connected)

    def data_received(self, data: bytes) -> None:
        pending, gets = self.pending, self._reader.gets
        self._reader.feed(data)
        try:
            while (reply := gets()) is not False:
                if not pending:  # lost by the last reply, or never asked for this one
                    self.lose("the store said what nobody had asked for")
                    return
                entry = pending.popleft()
                if isinstance(reply, StoreError):
                    self._refuse(entry, reply)
                elif not entry[0].done():
                    entry[0].set_result(reply)
        except hiredis.ProtocolError as error:
            self.lose(f"the store does not speak RESP: {error}", failures=1)
            return
        answered = self._sent - len(pending) + len(self._unsent)
        while self._writes and self._writes[0][1] <= answered:
            self._writes.popleft()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_gone.set()
        reason = f"the connection to the store was lost: {error or 'closed by the server'}"
        self.lose(reason, failures=1 if self.pending else 0)

    def _greet(self, transport: asyncio.Transport) -> None:
        """Say who we are, ahead of what waits: a full server refuses before it is asked."""
        greeting = self._address.greeting
        futures = [self._loop.create_future() for _ in greeting]
        self._greeted = asyncio.gather(*futures, return_exceptions=True)
        for future, command in zip(reversed(futures), reversed(greeting), strict=True):
            self.pending.appendleft((future, command, None))
        transport.write(b"".join(map(_pack, greeting)))
        self._sent += len(greeting)

    async def _open(self) -> None:
        try:
            await self._address.connect(self)
            *needed, name = await self._greeted
            # Not every user may set a name; but one who is not logged in is told so by it.
            if not isinstance(name, StoreRefused) or name.code == "NOAUTH":
                needed.append(name)
            for answer in needed:
                if isinstance(answer, StoreError):
                    raise answer
        except (OSError, StoreError) as error:
            self.lose(f"no connection to the store: {error}", failures=1)
        else:
            self._is_ready = True
            self._write()

    def _queue(self, entry: _Pending) -> None:
        packed = _pack(entry[1])  # before anything changes, because it may raise
        if not self._unsent:
            self._loop.call_soon(self._write)
        self._unsent.append(packed)
        self.pending.append(entry)
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._timeout_seconds, self._watch)

    def _write(self) -> None:
        if self._is_ready and self._unsent:
            cast("asyncio.Transport", self._transport).write(b"".join(self._unsent))
            self._sent += len(self._unsent)
            self._writes.append((time.monotonic(), self._sent))
            self._unsent.clear()

    def _refuse(self, entry: _Pending, error: StoreError) -> None:
        future, command, script = entry
        if script and isinstance(error, StoreRefused) and error.code == "NOSCRIPT":
            self._queue((future, (b"EVAL", script.text, *command[2:]), None))
            return
        if not future.done():
            future.set_exception(error)
        if isinstance(error, StoreUnavailable) and self._is_ready:
            self._on_failure(str(error), 1)

    def _watch(self, is_second_look: bool = False) -> None:
        """Lose the connection if the oldest command is overdue; one timer does for all.

        It is looked at twice, because a loop that was busy elsewhere may run its timers before
        it reads the replies that came meanwhile (uvloop does).
        """
        self._watchdog = None
        if not self._writes:
            return
        overdue_seconds = time.monotonic() - self._writes[0][0] - self._timeout_seconds
        if overdue_seconds < 0:
            self._watchdog = self._loop.call_later(-overdue_seconds, self._watch)
        elif not is_second_look:
            self._watchdog = self._loop.call_later(_SECOND_LOOK_SECONDS, self._watch, True)
        else:
            reason = f"the store did not answer within {self._timeout_seconds:g} s"
            calls = self.pending if self._is_ready else self._unsent  # the greeting is no call
            self.lose(reason, failures=len(calls))


def _parse_error(message: str) -> StoreError:
    code = message.partition(" ")[0]
    return StoreUnavailable(message) if code in _NOT_SERVING else StoreRefused(message)
