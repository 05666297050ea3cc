"""An upstream over raw sockets: it plays what a test tells it to, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from tests.patience import PATIENCE_SECONDS, within

Player = Callable[["Visit"], Awaitable[None]]


class Visit:
    """One request as it came, and the server's end of its connection."""

    def __init__(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        request_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        self.method, self.path, _ = request_line.split(" ")
        pairs = (line.split(": ", 1) for line in lines)
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in pairs}
        self.raw = head + body
        self.body: dict[str, Any] = {}  # if it is JSON
        with suppress(ValueError):
            self.body = json.loads(body)
        self.connection: tuple[str, int] = writer.get_extra_info("peername")
        self.left = asyncio.Event()
        self._writer = writer

    async def send(self, *parts: bytes) -> None:
        """Write `parts`, each by itself."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()

    async def gone(self, *, within_seconds: float = 1.0) -> None:
        """Wait until the gateway has hung up. Raises TimeoutError when it does not in time."""
        async with within(within_seconds):
            await self.left.wait()

    def close(self) -> None:
        """End the connection in an orderly way."""
        self._writer.close()

    def reset(self) -> None:
        """End the connection with an RST."""
        linger = struct.pack("ii", 1, 0)
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()


class Upstream:
    """Listens on a free port of 127.0.0.1. `default` plays whatever no test has a part for.

    `visits` are all requests since the last `rest`; `most_at_once` of them were under way
    together.
    """

    def __init__(self, default: Player) -> None:
        self._default = default
        self._writers: set[asyncio.StreamWriter] = set()
        self._playing: set[asyncio.Task[None]] = set()
        self.rest()

    def rest(self) -> None:
        """Forget what was played and what came, and hang up on everybody."""
        self._players: list[Player] = []
        self._arrivals: asyncio.Queue[Visit] = asyncio.Queue()
        self.visits: list[Visit] = []
        self.under_way = self.most_at_once = 0
        for writer in self._writers:
            writer.transport.abort()
        for task in self._playing:
            task.cancel()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.rest()

    def play(self, *parts: bytes | Player) -> None:
        """Answer the next requests with one part each; the last part stands for all others too.

        Bytes are sent as they are. A function gets the visit and may do with it what it likes.
        """
        self._players = [_sending(part) if isinstance(part, bytes) else part for part in parts]

    async def arrival(self) -> Visit:
        """Return the next request, in the order in which they came."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._arrivals.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        visit = None
        try:
            while True:  # reads on while a part is played, so that it sees the gateway leave
                visit = await _read_visit(reader, writer)
                task = asyncio.create_task(self._meet(visit))
                self._playing.add(task)
                task.add_done_callback(self._playing.discard)
        except (asyncio.IncompleteReadError, ConnectionError):
            if visit:
                visit.left.set()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _meet(self, visit: Visit) -> None:
        player = self._default
        if self._players:
            player = self._players.pop(0) if len(self._players) > 1 else self._players[0]
        self.visits.append(visit)
        self._arrivals.put_nowait(visit)
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            with suppress(ConnectionError):
                await player(visit)
        finally:
            self.under_way -= 1


async def _read_visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Visit:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
    return Visit(head, await reader.readexactly(length), writer)


def _sending(part: bytes) -> Player:
    async def send(visit: Visit) -> None:
        await visit.send(part)

    return send
