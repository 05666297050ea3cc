"""One socket to a Valkey or Redis server, from the first call that needs it until it is lost."""

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
from gateway.store_errors import StoreError, StoreRefused, StoreUnavailable, parse_error

# Too short to notice, long enough for one more look into the socket: see `Connection._watch`.
_SECOND_LOOK_SECONDS = 0.001
# A server of a cluster says so of what another one has, or of what is just being moved.
_ELSEWHERE = frozenset({"MOVED", "ASK", "TRYAGAIN"})

# hiredis' stub says that commands have one word.
pack = cast("Callable[[Command], bytes]", hiredis.pack_command)
"""Return a command's bytes. Raises TypeError and UnicodeEncodeError for what cannot be sent."""


class Script:
    """A Lua script. Servers that have seen its text know it by `sha`."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


# A plain tuple, which costs a fifth of any class: the future, its command, the EVALSHA's script,
# and how often it was sent elsewhere before.
Call = tuple[Future[Any], Command, Script | None, int]
Redirect = Callable[[Call, StoreRefused], StoreError | None]


class Connection(asyncio.Protocol):
    """Calls in their order, and replies matched to them.

    A successor is another object with its own queue, so that no late reply can reach it.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_seconds: float,
        on_failure: Callable[[str, int], None],
        on_redirect: Redirect,
        on_answered: Callable[[float], None] | None,
    ) -> None:
        self.is_lost = False
        self.pending: deque[Call] = deque()  # oldest first; the last ones are still unsent
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._on_failure = on_failure
        self._on_redirect = on_redirect
        self._on_answered = on_answered
        self.loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=parse_error)
        self._unsent: list[bytes] = []
        self._is_ready = False
        self._greeted: Future[list[Any]] = self.loop.create_future()
        self._sent = 0  # how many commands were ever written
        # When each unanswered write began, and what `_sent` was after it. One clock for a whole
        # write: what a busy event loop makes a command wait before it is not the server's fault.
        self._writes = deque([(time.monotonic(), len(address.greeting))])
        self._watchdog: asyncio.TimerHandle | None = self.loop.call_later(
            timeout_seconds, self._watch
        )
        self._transport: asyncio.Transport | None = None
        self._is_gone = asyncio.Event()
        self._opening = self.loop.create_task(self._open())

    def queue(self, call: Call) -> None:
        """Send what can be sent, else raise TypeError or UnicodeEncodeError."""
        packed = pack(call[1])  # before anything changes, because it may raise
        if not self._unsent:
            self.loop.call_soon(self._write)
        self._unsent.append(packed)
        self.pending.append(call)
        if self._watchdog is None:
            self._watchdog = self.loop.call_later(self._timeout_seconds, self._watch)

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
        for call in self.pending:
            fail(call, reason)
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
        if self._writes and self._writes[0][1] <= answered:
            self._note_answered(answered)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_gone.set()
        reason = f"the connection to the store was lost: {error or 'closed by the server'}"
        self.lose(reason, failures=1 if self.pending else 0)

    def _greet(self, transport: asyncio.Transport) -> None:
        """Say who we are, ahead of what waits: a full server refuses before it is asked."""
        greeting = self._address.greeting
        futures = [self.loop.create_future() for _ in greeting]
        self._greeted = asyncio.gather(*futures, return_exceptions=True)
        for future, command in zip(reversed(futures), reversed(greeting), strict=True):
            self.pending.appendleft((future, command, None, 0))
        transport.write(b"".join(map(pack, greeting)))
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

    def _write(self) -> None:
        if self._is_ready and self._unsent:
            cast("asyncio.Transport", self._transport).write(b"".join(self._unsent))
            self._sent += len(self._unsent)
            self._writes.append((time.monotonic(), self._sent))
            self._unsent.clear()

    def _note_answered(self, answered: int) -> None:
        """Forget the writes whose last reply is there, and tell how long each took."""
        now = time.monotonic() if self._on_answered else 0.0
        while self._writes and self._writes[0][1] <= answered:
            began, _ = self._writes.popleft()
            if self._on_answered and self._is_ready:  # the greeting took a connection's time
                self._on_answered(now - began)

    def _refuse(self, call: Call, error: StoreError | None) -> None:
        future, command, script, hops = call
        if isinstance(error, StoreRefused):
            if script and error.code == "NOSCRIPT":
                self.queue((future, (b"EVAL", script.text, *command[2:]), None, hops))
                return
            if error.code in _ELSEWHERE:
                error = self._on_redirect(call, error)
        if error and not future.done():
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
            self._watchdog = self.loop.call_later(-overdue_seconds, self._watch)
        elif not is_second_look:
            self._watchdog = self.loop.call_later(_SECOND_LOOK_SECONDS, self._watch, True)
        else:
            reason = f"the store did not answer within {self._timeout_seconds:g} s"
            calls = self.pending if self._is_ready else self._unsent  # the greeting is no call
            self.lose(reason, failures=len(calls))


def fail(call: Call, reason: str) -> None:
    """Let a call be StoreUnavailable, unless it was cancelled."""
    if not call[0].done():
        call[0].set_exception(StoreUnavailable(reason))
