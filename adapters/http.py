"""The only upstream I/O: sends a dialect's `Call` to one server and hands back its `Reply`.

Requests and answers are httpx's, sent through any `httpx.AsyncBaseTransport`. `AsyncClient` stays
out: it adds some 150 µs of CPU to a request. Every failure leaves as an `UpstreamError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import cast
from urllib.parse import quote

import httpx

from adapters.base import Call
from adapters.errors import (
    HungUp,
    Interrupted,
    Misconfigured,
    ModelMissing,
    TimedOut,
    Unreachable,
    UpstreamError,
)

_PATH_CHARACTERS = "/:@!$&'()*+,;=~"  # RFC 3986 §3.3: what a path may hold as it is
_REMEMBERED = 1024  # paths and sets of headers per upstream: building them costs 20 µs a request
_DRAIN_SECONDS = 0.1
_DEFAULT_HEADERS = {
    "content-type": "application/json",
    "accept": "*/*",
    # Compressed events would wait in the compressor until its block is full.
    "accept-encoding": "identity",
    "user-agent": "dragoman/0.1",
}
_ERRORS: tuple[tuple[type[httpx.RequestError], type[UpstreamError], str], ...] = (
    (httpx.ConnectTimeout, Unreachable, "cannot be reached: no connection in time"),
    (httpx.ConnectError, Unreachable, "cannot be reached"),
    (httpx.TimeoutException, TimedOut, "took longer than allowed"),
    (httpx.LocalProtocolError, Misconfigured, "cannot be sent this request"),
    (httpx.UnsupportedProtocol, Misconfigured, "cannot be sent this request"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Longest waits: for a connection, from there to the answer's head, and for everything."""

    connect_seconds: float = 5.0
    first_byte_seconds: float = 120.0
    total_seconds: float = 600.0


class Upstream:
    """One server. `headers` (the credential) go with every call and override a call's own.

    `base_url` is `http(s)://host[:port][/path]`. Raises ValueError, without the value, for any
    other and for a header that cannot be sent. `transport` is closed by whoever made it.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        transport: httpx.AsyncBaseTransport,
        headers: Mapping[str, str],
        timeouts: Timeouts,
    ) -> None:
        self.name = name
        self._base_url = _parse_base_url(base_url, name=name)
        self._transport = transport
        self._own_headers = {
            **_parse_headers(headers, name=name),
            "host": self._base_url.netloc.decode(),
        }
        self._extensions = {
            "timeout": {
                "connect": timeouts.connect_seconds,
                "first_byte": timeouts.first_byte_seconds,
                "total": timeouts.total_seconds,
            }
        }
        self._url = lru_cache(_REMEMBERED)(self._build_url)
        self._headers = lru_cache(_REMEMBERED)(self._build_headers)

    @property
    def host(self) -> str:
        """The name or address that it is reached by."""
        return self._base_url.host

    async def open(self, call: Call, *, headers: Mapping[str, str] | None = None) -> Reply:
        """Send `call` and return its reply once the head is here, whatever its status.

        Only `call.headers`, `headers` and the upstream's own are sent. Whoever calls closes the
        reply. Raises UpstreamError; `Unreachable` means that nothing was sent.
        """
        request = self.request(call, headers=headers)
        with _upstream_errors(self.name, otherwise=HungUp):
            response = await self._transport.handle_async_request(request)
        return Reply(response, upstream=self.name)

    def request(self, call: Call, *, headers: Mapping[str, str] | None = None) -> httpx.Request:
        """Return what `open` sends, the credential included. Raises ModelMissing."""
        given = self._headers(*call.headers.items(), *(headers or {}).items())
        return httpx.Request(
            call.method,
            self._url(call.path, call.query),
            headers=[*given, (b"content-length", b"%d" % len(call.body))],
            stream=httpx.ByteStream(call.body),
            extensions=self._extensions,
        )

    def _build_headers(self, *given: tuple[str, str]) -> tuple[tuple[bytes, bytes], ...]:
        headers = {name.lower(): value for name, value in given}
        merged = {**_DEFAULT_HEADERS, **headers, **self._own_headers}
        return tuple((name.encode(), value.encode()) for name, value in merged.items())

    def _build_url(self, path: str, query: str) -> httpx.URL:
        """Return the URL of `path`, in which a client may have chosen the model's name."""
        if not {".", ".."}.isdisjoint(path.split("/")):
            raise ModelMissing(f"upstream {self.name!r} has no {path!r}")
        prefix = self._base_url.raw_path.rstrip(b"/")
        tail = f"?{query}" if query else ""
        return self._base_url.copy_with(
            raw_path=prefix + quote(path, safe=_PATH_CHARACTERS).encode() + tail.encode()
        )


class Reply:
    """An upstream's answer: the head is here, the body is read once, by `read` or `chunks`."""

    def __init__(self, response: httpx.Response, *, upstream: str) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._upstream = upstream
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._is_closed = False
        self.on_close: Callable[[], None] | None = None  # called once

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body and close. Raises Interrupted if it is longer than allowed."""
        parts, size_bytes = [], 0
        try:
            async for chunk in self.chunks():
                size_bytes += len(chunk)
                if size_bytes > limit_bytes:
                    raise Interrupted(
                        f"the answer of upstream {self._upstream!r} exceeds {limit_bytes} bytes"
                    )
                parts.append(chunk)
        finally:
            await self.aclose()
        return b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, in pieces of any size."""
        self._refuse_encoding()
        with _upstream_errors(self._upstream):
            async for chunk in self._stream:
                yield chunk

    async def drain(self) -> None:
        """Read up to the end of a body that holds nothing more, then close.

        The connection can then be used again. A body that does not end at once is given up.
        """
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                async for _ in self.chunks():
                    pass
        except (TimeoutError, UpstreamError):
            pass
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Hang up if the body is not complete, else leave the connection to the next call."""
        if not self._is_closed:
            self._is_closed = True
            try:
                await self._stream.aclose()
            finally:
                if self.on_close:
                    self.on_close()

    def _refuse_encoding(self) -> None:
        encoding = self.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Interrupted(
                f"upstream {self._upstream!r} sent content-encoding {encoding!r} unasked"
            )


@contextmanager
def _upstream_errors(
    upstream: str, *, otherwise: type[UpstreamError] = Interrupted
) -> Iterator[None]:
    try:
        yield
    except httpx.RequestError as error:
        kind, text = next(
            ((kind, text) for type_, kind, text in _ERRORS if isinstance(error, type_)),
            (otherwise, "broke off its answer"),
        )
        raise kind(f"upstream {upstream!r} {text}") from error


def _parse_base_url(base_url: str, *, name: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query:
        raise ValueError(f"base_url of upstream {name!r}: expected http(s)://host[:port][/path]")
    return url


def _parse_headers(headers: Mapping[str, str], *, name: str) -> dict[str, str]:
    for header, value in headers.items():
        if not (header.isascii() and value.isascii() and (header + value).isprintable()):
            raise ValueError(f"header {header!r} of upstream {name!r}: expected printable ASCII")
    return {header.lower(): value for header, value in headers.items()}
