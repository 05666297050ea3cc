"""Where a Valkey or Redis server listens, and how a connection to it begins."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass, field
from typing import Any, Self, cast

from redis.asyncio.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisError

Argument = bytes | str | int | float
Command = tuple[Argument, ...]

_CLUSTER_SCHEMES = frozenset({"redis+cluster", "rediss+cluster"})
_SET_NAME: Command = (b"CLIENT", b"SETNAME", b"dragoman")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server. Each connection begins with the commands of `greeting`: the last names it."""

    host: str = ""
    port: int = 0
    path: str | None = None  # of a unix socket, instead of host and port
    tls: ssl.SSLContext | None = None
    greeting: tuple[Command, ...] = field(default=(_SET_NAME,), repr=False)  # may hold a password

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a `redis://`, `rediss://` or `unix://` URL as redis-py does. Raises ValueError."""
        if "," in _split(url)[1]:
            raise ValueError("several servers are a cluster: begin its URL with redis+cluster://")
        try:
            # redis-py's parser alone leaves the defaults, and all of TLS, to the connection.
            pool = ConnectionPool.from_url(url)
            found = cast("Any", pool.connection_class(**pool.connection_kwargs))
        except (TypeError, RedisError) as error:  # an option that it does not know
            raise ValueError(f"not the URL of a store: {error}") from None
        greeting = _greeting(found.username, found.password, database=int(found.db or 0))
        if isinstance(found, UnixDomainSocketConnection):
            return cls(path=found.path, greeting=greeting)
        tls = found.ssl_context.get() if isinstance(found, SSLConnection) else None
        return cls(host=found.host, port=found.port, tls=tls, greeting=greeting)

    @classmethod
    def parse_seeds(cls, url: str) -> tuple[Self, ...]:
        """Read `redis+cluster://user:password@host:port,host:port/?options`: where to ask first.

        All that does not differ between the servers of a cluster is written once. `rediss+cluster`
        is for TLS. Raises ValueError.
        """
        before, hosts, after = _split(url)
        if not all(hosts.split(",")):
            raise ValueError("not the URL of a store: expected host:port,host:port …")
        before = before.replace("+cluster", "", 1)
        return tuple(cls.parse(f"{before}{host}{after}") for host in hosts.split(","))

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Connect `protocol`. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(lambda: protocol, self.path)
        else:
            await loop.create_connection(lambda: protocol, self.host, self.port, ssl=self.tls)


def names_cluster(url: str) -> bool:
    """Return whether a URL is one for `Address.parse_seeds`."""
    return url.partition("://")[0] in _CLUSTER_SCHEMES


def check_url(url: str) -> None:
    """Raise ValueError unless `url` is one of a store."""
    if names_cluster(url):
        Address.parse_seeds(url)
    else:
        Address.parse(url)


def _split(url: str) -> tuple[str, str, str]:
    """Return what of a URL is before `host:port,host:port`, that, and what is after."""
    found = re.fullmatch(r"([^/]*://(?:[^/?#]*@)?)([^/?#]*)(.*)", url)
    before, hosts, after = found.groups() if found else (url, "", "")
    return before, hosts, after


def _greeting(username: str | None, password: str | None, *, database: int) -> tuple[Command, ...]:
    commands: list[Command] = []
    if password:
        commands.append((b"AUTH", username, password) if username else (b"AUTH", password))
    if database:
        commands.append((b"SELECT", database))
    return (*commands, _SET_NAME)
