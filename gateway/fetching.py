"""Images from URLs that clients send, fetched from public addresses only.

A host is resolved once, all its addresses are checked, and the connection goes to one that was
checked: a name that resolves to another address a moment later changes nothing. What a URL looks
like is not judged (`127.1`, `0x7f000001`, `localhost.`), only where it leads. A redirect is a new
URL and passes the same checks. Nothing of the gateway's own (keys, cookies) is sent.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from ssl import SSLContext
from typing import cast

import httpx

from adapters.transport import Transport
from gateway.images import sniff

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
IsAllowed = Callable[[Address], bool]

_HEADERS = {
    "accept-encoding": "identity",
    "connection": "close",
    "user-agent": "dragoman/0.1",
}
_PORTS = {"http": 80, "https": 443}
_MOST_REDIRECTS = 3
_MOST_ADDRESSES = 3  # tried one after the other, for hosts with addresses that do not answer
_CONNECT_SECONDS = 3.0
_MAGIC_BYTES = 16
# What the registries of special addresses call global, or a server here might translate to an
# address that is not.
_REFUSED = tuple(
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # RFC 6890: protocol assignments
        "192.88.99.0/24",  # RFC 7526: relays to 6to4
        "198.18.0.0/15",  # RFC 2544: benchmarks
        "168.63.129.16/32",  # Azure's platform service, reachable from every virtual machine
        "2001::/23",  # RFC 2928: Teredo, benchmarks, ORCHID
        "2002::/16",  # RFC 3056: 6to4, an IPv4 address inside
        "3fff::/20",  # RFC 9637: documentation
    )
)
_GLOBAL_UNICAST = ip_network("2000::/3")  # RFC 4291 §2.4; mapped and NAT64 addresses lie outside


class FetchFailed(Exception):
    """The URL must not or cannot be fetched. `message` is for the client.

    It does not tell a host that leads inside from one that does not exist.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ImageFetcher:
    """Fetches images; `ports` are those that a URL may name. Keeps no connection.

    `resolve` and `is_allowed` stand in for DNS and for `is_public`. `total_seconds` covers
    resolving, redirects and the body. `is_wanted` tells by its first bytes whether it is what it
    should be, and `accept` asks for that: images, unless it is said.
    """

    def __init__(
        self,
        *,
        ssl_context: SSLContext | None = None,
        limit_bytes: int = 20_000_000,
        total_seconds: float = 10.0,
        ports: frozenset[int] = frozenset(_PORTS.values()),
        resolve: Resolve | None = None,
        is_allowed: IsAllowed | None = None,
        accept: str = "image/*",
        is_wanted: Callable[[bytes], object] = sniff,
    ) -> None:
        self._transport = Transport(ssl_context=ssl_context, idle_connections=0)
        self._limit_bytes = limit_bytes
        self._total_seconds = total_seconds
        self._ports = ports
        self._resolve = resolve or resolve_host
        self._is_allowed = is_allowed or is_public
        self._accept = accept
        self._is_wanted = is_wanted

    async def fetch(self, url: str) -> bytes:
        """Return the image at `url`, told by its first bytes. Raises FetchFailed."""
        try:
            async with asyncio.timeout(self._total_seconds):
                return await self._follow(_parse(url))
        except TimeoutError:
            raise FetchFailed("the image did not arrive in time") from None
        except httpx.RequestError as error:
            raise FetchFailed("the image could not be fetched") from error

    async def _follow(self, url: httpx.URL) -> bytes:
        for _ in range(_MOST_REDIRECTS + 1):
            response = await self._open(url)
            stream = cast("httpx.AsyncByteStream", response.stream)
            try:
                if not response.has_redirect_location:
                    return await self._read(response, stream)
                url = _parse(str(_joined(url, response.headers["location"])))
            finally:
                await stream.aclose()
        raise FetchFailed(f"the image is behind more than {_MOST_REDIRECTS} redirects")

    async def _open(self, url: httpx.URL) -> httpx.Response:
        """Return the answer of the first address that takes the connection."""
        addresses = await self._addresses(url)
        for address in addresses[:-1]:
            try:
                return await self._send(url, address)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._send(url, addresses[-1])

    async def _addresses(self, url: httpx.URL) -> Sequence[Address]:
        """Return the addresses to try, all of them allowed, as every other of the host is."""
        port = url.port or _PORTS[url.scheme]
        if port not in self._ports:
            raise FetchFailed(f"the image's URL names port {port}, which is not allowed")
        addresses = await self._resolve(url.raw_host.decode("ascii"), port)
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise FetchFailed("the image's host does not lead to a public address")
        return addresses[:_MOST_ADDRESSES]

    async def _send(self, url: httpx.URL, address: Address) -> httpx.Response:
        request = httpx.Request(
            "GET",
            url,
            headers={"host": url.netloc.decode(), "accept": self._accept, **_HEADERS},
            extensions={"timeout": {"connect": _CONNECT_SECONDS}, "address": str(address)},
        )
        return await self._transport.handle_async_request(request)

    async def _read(self, response: httpx.Response, stream: httpx.AsyncByteStream) -> bytes:
        if response.status_code != 200:
            raise FetchFailed(f"the image's server answered {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise FetchFailed("the image's server sent it compressed")
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limit_bytes:
            raise self._too_large()
        data = bytearray()
        async for chunk in stream:
            data += chunk
            if len(data) > self._limit_bytes:
                raise self._too_large()
            if len(data) >= _MAGIC_BYTES > len(data) - len(chunk):
                self._require_wanted(data)
        self._require_wanted(data)
        return bytes(data)

    def _require_wanted(self, data: bytearray) -> None:
        if not self._is_wanted(bytes(data[:_MAGIC_BYTES])):
            raise FetchFailed("what the URL leads to is no image")

    def _too_large(self) -> FetchFailed:
        return FetchFailed(f"the image is over {self._limit_bytes} bytes")


async def resolve_host(host: str, port: int) -> Sequence[Address]:
    """Return the addresses of `host` in the system's order, none if it has none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(ip_address(str(entry[4][0])) for entry in found))


def is_public(address: Address) -> bool:
    """Whether `address` is another host on the internet: global, unicast, and not a disguise.

    IPv6 forms of IPv4 addresses (mapped, 6to4, Teredo, NAT64) are refused as a whole.
    """
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return False
    if not address.is_global or address.is_multicast:
        return False
    return not any(address in network for network in _REFUSED)


def _parse(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise FetchFailed("the image's URL is malformed") from None
    if url.scheme not in _PORTS or not url.host:
        raise FetchFailed("the image's URL must begin with https:// or http://")
    if url.userinfo:
        raise FetchFailed("the image's URL must not hold a user name or password")
    return url


def _joined(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return url.join(location)
    except httpx.InvalidURL:
        raise FetchFailed("the image is behind a malformed redirect") from None
