"""HTTP/1.1 client connections on asyncio and llhttp, behind httpx's transport interface.

`Transport` pools connections, `Connection` parses one socket, `Exchange` is one answer on its
way. Nothing is followed, decoded, proxied or buffered: a redirect is an answer like any other,
proxy variables are not read, and bytes are handed out as they arrive.

Everything runs on the event loop's own thread. An engine with a thread of its own costs several
times the CPU per request in wake-ups alone, and one that finishes a cancelled request in the
background would leave the upstream generating for a client that has gone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from math import inf
from ssl import SSLContext

import httpx

from adapters.connection import Connection

_Origin = tuple[str, str, int | None, str]  # scheme, host, port, address to connect to
_PORTS = {"http": 80, "https": 443}


class Transport(httpx.AsyncBaseTransport):
    """Sends requests whose body is in memory over pooled HTTP/1.1 connections.

    `request.extensions["timeout"]` may hold seconds: `connect`; `first_byte`, from the request's
    last byte to the answer's head; `total`, from the call to the body's end. Headers are sent as
    they are, so `host` and `content-length` are the caller's. Raises httpx's exceptions:
    `ConnectError` and `ConnectTimeout` mean that nothing was sent.

    `request.extensions["address"]` may hold the IP address to connect to, where the URL's host
    must not be resolved again; certificates are still checked against the host.

    Connections in use are not limited (whoever calls admits requests; a second limit here would
    queue unseen). `idle_connections` per origin are kept for reuse, none longer than
    `idle_seconds`, which stays below the 60 s after which most load balancers hang up.
    """

    def __init__(
        self,
        *,
        ssl_context: SSLContext | None = None,
        idle_connections: int = 128,
        idle_seconds: float = 50.0,
    ) -> None:
        self._given_ssl_context = ssl_context
        self._idle_connections = idle_connections
        self._idle_seconds = idle_seconds
        self._idle: dict[_Origin, deque[Connection]] = defaultdict(deque)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer once its head is here; whoever calls closes its `stream`."""
        message = _render(request, await request.aread())
        url, limits = request.url, request.extensions.get("timeout", {})
        origin = (url.scheme, url.host, url.port, request.extensions.get("address", url.host))
        end_at = _after(limits.get("total"))
        connection = self._reuse(origin) or await self._connect(
            origin, deadline=min(_after(limits.get("connect")), end_at)
        )
        exchange = connection.send(message, head_at=_after(limits.get("first_byte")), end_at=end_at)
        try:
            await exchange.head()
        except BaseException:
            exchange.abort()
            raise
        return httpx.Response(exchange.status, headers=exchange.headers, stream=exchange)

    async def aclose(self) -> None:
        """Close the idle connections; one in use closes with its answer."""
        self._idle_connections = 0
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    @cached_property
    def _ssl_context(self) -> SSLContext:
        return self._given_ssl_context or httpx.create_ssl_context()

    async def _connect(self, origin: _Origin, *, deadline: float) -> Connection:
        scheme, host, port, address = origin
        if scheme not in _PORTS:
            raise httpx.UnsupportedProtocol(f"expected http or https, not {scheme!r}")
        with _connect_errors():
            async with asyncio.timeout_at(deadline if deadline < inf else None):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(partial(self._keep, origin)),
                    address,
                    port or _PORTS[scheme],
                    ssl=self._ssl_context if scheme == "https" else None,
                    server_hostname=host if scheme == "https" else None,
                )
        return connection

    def _reuse(self, origin: _Origin) -> Connection | None:
        """Return the connection that was idle for the shortest time and is still open."""
        idle, oldest = self._idle.get(origin, deque()), _after(-self._idle_seconds)
        while idle:
            connection = idle.pop()
            if connection.idle_since >= oldest and connection.is_reusable():
                return connection
            connection.abort()
        return None

    def _keep(self, origin: _Origin, connection: Connection) -> None:
        """Take back a connection whose answer was received in full, for the next request."""
        idle = self._idle[origin]
        idle.append(connection)
        oldest = connection.idle_since - self._idle_seconds
        while idle and (len(idle) > self._idle_connections or idle[0].idle_since < oldest):
            idle.popleft().abort()
        if not idle:  # origins may be as many as clients can think of
            del self._idle[origin]


def _render(request: httpx.Request, body: bytes) -> bytes:
    if request.method in {"HEAD", "CONNECT"}:
        raise httpx.UnsupportedProtocol(f"{request.method} answers are framed in their own way")
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    head = b"\r\n".join(lines)
    # RFC 9112 §2.2 and §11.1: a line break inside a value would begin another header, or request.
    if not head.count(b"\r") == head.count(b"\n") == len(lines) - 1 or b"\0" in head:
        raise httpx.LocalProtocolError("a header holds a line break or a NUL")
    return b"%s\r\n\r\n%s" % (head, body)


def _after(seconds: float | None) -> float:
    """Return the loop's time in `seconds` from now."""
    return inf if seconds is None else asyncio.get_running_loop().time() + seconds


@contextmanager
def _connect_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise httpx.ConnectTimeout("no connection in time") from error
    except OSError as error:
        raise httpx.ConnectError("no connection") from error
