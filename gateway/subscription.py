"""One channel of a store's server, listened to on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import hiredis

from gateway.address import Address, Command
from gateway.connection import pack
from gateway.store_errors import StoreError, StoreUnavailable, parse_error

_MESSAGES = (b"message", b"smessage")
_ENDED = (b"unsubscribe", b"sunsubscribe")


class Subscription:
    """What is published on a channel from now on."""

    def __init__(self, wire: _Wire, *, patience_seconds: float) -> None:
        """Use `subscribe`."""
        self._wire = wire
        self._patience_seconds = patience_seconds

    async def next(self) -> bytes:
        """Return the next message. Raises StoreError if none can come any more.

        A server that hangs keeps its connections, so that only asking it shows: that is done after
        each `patience_seconds` of silence, and it has as many to answer.
        """
        while True:
            reply = await self._wire.next(self._patience_seconds)
            if reply is None:
                self._wire.send((b"PING",))
                reply = await self._wire.next(self._patience_seconds)
            match reply:
                case None:
                    raise StoreUnavailable("the server is silent")
                case [word, _, data] if word in _MESSAGES:
                    return cast("bytes", data)
                case [word, *_] if word in _ENDED:  # its slot has moved
                    raise StoreUnavailable("the channel has another server now")


@asynccontextmanager
async def subscribe(
    address: Address, command: Command, *, patience_seconds: float
) -> AsyncIterator[Subscription]:
    """Yield once `command`, SUBSCRIBE or SSUBSCRIBE of one channel, is done.

    Connecting and each answer may take `patience_seconds`. Raises StoreError and OSError.
    """
    wire = _Wire()
    try:
        async with asyncio.timeout(patience_seconds):
            await address.connect(wire)
        commands = (*address.greeting, command)
        wire.send(*commands)
        for _ in commands:
            if await wire.next(patience_seconds) is None:
                raise StoreUnavailable("the server is silent")
        yield Subscription(wire, patience_seconds=patience_seconds)
    except TimeoutError:
        raise StoreUnavailable("no connection in time") from None
    finally:
        wire.close()


class _Wire(asyncio.Protocol):
    """What a server says, reply by reply."""

    def __init__(self) -> None:
        self._replies: asyncio.Queue[Any] = asyncio.Queue()
        self._reader = hiredis.Reader(replyError=parse_error)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._replies.put_nowait(reply)
        except hiredis.ProtocolError as error:
            self._replies.put_nowait(StoreUnavailable(f"the store does not speak RESP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        reason = error or "closed by the server"
        self._replies.put_nowait(StoreUnavailable(f"the connection was lost: {reason}"))

    def send(self, *commands: Command) -> None:
        cast("asyncio.Transport", self._transport).write(b"".join(map(pack, commands)))

    async def next(self, patience_seconds: float) -> Any:
        """Return the next reply, None if none comes in time. Raises StoreError."""
        try:
            async with asyncio.timeout(patience_seconds):
                reply = await self._replies.get()
        except TimeoutError:
            return None
        if isinstance(reply, StoreError):
            raise reply
        return reply

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
