"""HTTP/1.1 as uvicorn reads it, with what it lacks: bounds on how a request comes, and our errors.

A request that is not HTTP never becomes an ASGI call, so its answer is made here.
"""

from __future__ import annotations

import asyncio
import re
import select
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.edge import CORS, uuid7
from gateway.errors import BadRequest

_LONGEST_HEAD_BYTES = 64 * 1024
_HEAD_SECONDS = 60.0
_LINGER_SECONDS = 30.0
_PARTING_SECONDS = 1
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class Protocol(HttpToolsProtocol):
    """One connection. A head may take a minute to come and be some 64 KiB long.

    A body that was answered before it was whole (a wrong key, an unknown URL) has half a minute
    more. To hang up at once would be simpler, but the kernel then resets the connection, and a
    client that is still sending may never read the answer (RFC 9112 §9.6).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = self._in_body = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request."""
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_clock()
        self._stop_lingering()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request, or of several."""
        if b"pgrade:" in data and not self._in_body:
            data = _without_upgrade(data)
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > _LONGEST_HEAD_BYTES:
            self._refuse("The request's headers are too long.", status=431)
        elif self._head_timer is None:
            self._start_clock()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin the exchange; the body is its own affair."""
        self._in_head, self._in_body = False, True
        self._stop_clock()
        super().on_headers_complete()
        if self.cycle is not None:  # it has not begun to run
            self.cycle.transport = _OneWrite(self.transport, self.loop)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        """End a request."""
        self._in_body = False
        self._stop_lingering()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer, but not the connection while the rest of the body may come in time."""
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete:
            self._linger_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def leave(self) -> None:
        """Take no request but the one under way, and one that the client may be sending now.

        A connection at rest, and one whose answer began before it could say that it is the last,
        end when a second brings nothing. RFC 9112 §9.6: "If the server performs an immediate close
        of a TCP connection, there is a significant risk that the client will not be able to read
        the last HTTP response."
        """
        self.timeout_keep_alive = _PARTING_SECONDS
        if self.cycle is not None and not self.cycle.response_complete:
            if not self.cycle.response_started:
                self.cycle.keep_alive = False
        elif not self._in_head:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                _PARTING_SECONDS, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Hang up, unless a request has come that the loop is about to read."""
        if not self.transport.is_closing() and not _is_readable(self.transport):
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(msg, status=400)

    def _start_clock(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def _stop_clock(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_lingering(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None

    def _give_up(self) -> None:
        if self._in_head:
            self._refuse("The request did not arrive in time.", status=408)
        else:
            self.transport.close()

    def _refuse(self, message: str, *, status: int) -> None:
        """Answer and hang up; while another answer is under way or due, only hang up."""
        cycle = self.cycle
        is_broken = self._in_body and cycle is not None and not cycle.response_started
        if cycle is None or cycle.response_complete or (is_broken and not self.pipeline):
            self.transport.write(_render(message, status=status))
        self.transport.close()


class _OneWrite:
    """What one answer is written to. Its head waits for what follows in the same turn of the loop.

    uvicorn writes head and body apart. In one system call they cost 8 µs of CPU instead of 13, and
    the client wakes up once.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write `data`, or keep it for a moment if it is a head."""
        if self._head:
            self._transport.writelines((self._head, data))
            self._head = b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection once all is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""


def _is_readable(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _without_upgrade(data: bytes) -> bytes:
    """Leave the wish for another protocol out of a head, as RFC 9110 §7.8 allows.

    httptools would take the body for that protocol's first bytes. Java's HttpClient asks for
    `h2c` with the first request of every connection.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + rest


def _render(message: str, *, status: int) -> bytes:
    body = BadRequest(message, code="invalid_http").body()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        (b"x-request-id", uuid7().encode()),
        *CORS,
    ]
    lines = [name + b": " + value for name, value in headers]
    first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()
    return b"\r\n".join([first, *lines, b"", body])
