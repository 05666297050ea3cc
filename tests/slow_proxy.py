"""A network between the gateway and its state store, which may be slow or gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Self


class SlowProxy:
    """A TCP port that leads to a unix socket. Bytes take half of `latency_seconds` each way.

    What was sent arrives, though its sender has left meanwhile, as it would on a real network.
    """

    def __init__(self, socket: Path, *, latency_seconds: float = 0.0) -> None:
        self.latency_seconds = latency_seconds
        self.under_way = 0  # pieces
        self._socket = socket
        self._port = 0
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens, as the gateway takes it."""
        return f"redis://127.0.0.1:{self._port}/0"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()

    async def listen(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """End all connections, and take no more."""
        self._server.close()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                replies, there = await asyncio.open_unix_connection(self._socket)
                await asyncio.gather(self._carry(reader, there), self._carry(replies, writer))
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Bring bytes from one end to the other, each piece so much later than it was sent."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(due - loop.time())
                self.under_way -= 1
                if not data:
                    return
                writer.write(data)

        delivering = asyncio.create_task(deliver())
        try:
            data = b"-"
            while data:
                try:
                    data = await reader.read(65536)
                except ConnectionError:
                    data = b""
                self.under_way += 1
                pieces.put_nowait((loop.time() + self.latency_seconds / 2, data))
            await delivering
        finally:
            delivering.cancel()
            writer.close()
