"""A service manager, as far as it listens."""

from __future__ import annotations

import asyncio
import socket
from typing import Self

from tests.patience import PATIENCE_SECONDS


class ServiceManager:
    """A datagram socket at `address`, of which a first NUL makes an abstract one."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(address)
        self.env = {"NOTIFY_SOCKET": address.replace("\0", "@")}

    async def hears(self) -> list[str]:
        """Return the lines of the next datagram."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            data = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        return data.decode().splitlines()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
