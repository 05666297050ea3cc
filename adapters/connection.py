"""One HTTP/1.1 connection to an upstream, and the answer that is on its way over it."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Callable
from math import inf
from typing import cast

import httptools
import httpx


class Connection(asyncio.Protocol):
    """One socket: writes a request, feeds the parser and fills the exchange.

    `on_idle` is called with the connection when an answer is complete and another request may
    follow. Times are the event loop's; `math.inf` is no limit.
    """

    head_limit_bytes = 131_072

    def __init__(self, on_idle: Callable[[Connection], None]) -> None:
        self.idle_since = 0.0
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._end_at = inf
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False

    def send(self, message: bytes, *, head_at: float, end_at: float) -> Exchange:
        """Write a request and return its answer.

        Its head is due by `head_at`, its last byte by `end_at`; else it ends in `ReadTimeout`.
        """
        self._exchange = exchange = Exchange(self)
        self._headers, self._head_bytes, self._end_at = [], 0, end_at
        self._transport.write(message)
        self._set_timer(min(head_at, end_at))
        return exchange

    def is_reusable(self) -> bool:
        """Whether an idle connection is open, to the kernel's knowledge and not just the loop's.

        Readable while idle means that the upstream has hung up. Found before the request is
        written, this needs no retry of what may have been processed (RFC 9110 §9.2.2).
        """
        return not self._transport.is_closing() and not self._poll.poll(0)

    def abort(self) -> None:
        """Close the socket at once."""
        self._stop_timer()
        self._transport.abort()

    def resume(self) -> None:
        """Read on, if the reader's backlog had stopped that."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(httpx.RemoteProtocolError("the answer is not HTTP/1.1"))
        if self._exchange is not None and not self._exchange.status:
            self._head_bytes += len(data)
            if self._head_bytes > self.head_limit_bytes:
                self._fail(httpx.RemoteProtocolError("the head of the answer is too long"))

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._fail(httpx.ReadError("the connection was reset"))
        elif self._ends_with_connection():
            self._finish()
        else:
            self._fail(httpx.RemoteProtocolError("the connection was closed inside the answer"))

    def on_message_begin(self) -> None:
        if self._exchange is None:  # answers no request: the next one must not take it for its own
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None and not self._exchange.status:  # else it is a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = []
        elif self._exchange is not None:
            self._exchange.begin(status, self._headers)

    def on_body(self, data: bytes) -> None:
        if self._exchange is not None and not self._exchange.push(data) and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._exchange is None or not self._exchange.status:  # RFC 9110 §15.2: 1xx is interim
            return
        self.resume()
        self._finish()
        if self._parser.should_keep_alive() and not self._transport.get_write_buffer_size():
            self.idle_since = self._loop.time()
            self._on_idle(self)
        else:
            self.abort()

    def _ends_with_connection(self) -> bool:
        """Whether the body has no length of its own (RFC 9112 §6.3, rule 8)."""
        if self._exchange is None or not self._exchange.status:
            return False
        framing = {b"content-length", b"transfer-encoding"}
        return framing.isdisjoint(name.lower() for name, _ in self._headers)

    def _expire(self) -> None:
        if self._exchange is None:
            return
        if self._exchange.status and self._loop.time() < self._end_at:
            self._set_timer(self._end_at)  # only the head was due by now, and it is here
        else:
            self._fail(httpx.ReadTimeout("the answer took longer than allowed"))

    def _finish(self) -> None:
        self._stop_timer()
        if self._exchange is not None:
            self._exchange.end(None)
            self._exchange = None

    def _fail(self, error: httpx.TransportError) -> None:
        if self._exchange is not None:
            self._exchange.end(error)
            self._exchange = None
        self.abort()

    def _set_timer(self, moment: float) -> None:
        if moment < inf:
            self._timer = self._loop.call_at(moment, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Exchange(httpx.AsyncByteStream):
    """One answer as it arrives: its connection fills it, one reader drains it.

    Reading stops at `limit_bytes` of unread body, so that a slow reader slows its own upstream.
    """

    limit_bytes = 65_536

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._connection: Connection | None = connection
        self._chunks: list[bytes] = []
        self._unread_bytes = 0
        self._error: httpx.TransportError | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    async def head(self) -> None:
        """Wait for `status` and `headers`."""
        while not self.status:
            await self._progress()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            if self._chunks:
                yield self._take()
            elif self._connection is None and self._error is None:
                return
            else:
                await self._progress()

    async def aclose(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Close the connection, unless the answer is complete: then it may serve another."""
        if (connection := self._connection) is not None:
            self.end(httpx.ReadError("the answer was closed by its reader"))
            connection.abort()

    def push(self, data: bytes) -> bool:
        """Add `data` to the body; false if the reader is too far behind for more."""
        self._chunks.append(data)
        self._unread_bytes += len(data)
        self._wake()
        return self._unread_bytes < self.limit_bytes

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Set the head of the answer."""
        self.status, self.headers = status, headers
        self._wake()

    def end(self, error: httpx.TransportError | None) -> None:
        """Nothing more will come: the answer is complete, or `error` is why it is not."""
        self._connection, self._error = None, error
        self._wake()

    def _take(self) -> bytes:
        chunks, self._chunks, self._unread_bytes = self._chunks, [], 0
        if self._connection is not None:
            self._connection.resume()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _progress(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
