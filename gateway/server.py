"""uvicorn's server, with an end of its own that cuts nobody off who may be sending."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from gateway.departure import RETIRE, Departure
from gateway.protocol import Protocol

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.05


class Server(uvicorn.Server):
    """Serves until a signal. `on_started` is called once connections are accepted.

    uvicorn itself ends connections at rest at once, and the request that is on its way over one
    of them is lost. Here each has a moment more, see `Protocol.leave`.
    """

    def __init__(
        self, config: uvicorn.Config, departure: Departure, *, on_started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._departure = departure
        self._on_started = on_started
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, accept connections, and say so."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_started()

    async def main_loop(self) -> None:
        """Serve until a signal. uvicorn's own loop hears of it up to a tenth of a second later."""
        ticking = asyncio.create_task(super().main_loop())
        told = asyncio.create_task(self._told.wait())
        await asyncio.wait({ticking, told}, return_when="FIRST_COMPLETED")
        for task in (ticking, told):
            task.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the end: `RETIRE` retires, all else drains, also what retires already."""
        if sig == RETIRE:
            self._departure.retire()
        else:
            self._departure.drain()
        super().handle_exit(sig, frame)
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, let what is under way end as long as it may, end the application."""
        for one in (*self.servers, *(sockets or ())):
            one.close()
        state = self.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        for connection in list(state.connections):
            if isinstance(connection, Protocol):
                connection.leave()
        while (state.connections or state.tasks) and self._may_wait():  # noqa: ASYNC110 (uvicorn keeps sets, which tell nobody)
            await asyncio.sleep(_TICK_SECONDS)
        self._cut_off()
        if not self.force_exit:
            await self.lifespan.shutdown()

    def _may_wait(self) -> bool:
        return self._departure.seconds_left > 0 and not self.force_exit

    def _cut_off(self) -> None:
        """Cancel what has taken too long. uvicorn would log each of them as a fault."""
        tasks = self.server_state.tasks
        if tasks:
            logger.warning("%d requests took too long to end and are cut off", len(tasks))
            logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
        for task in list(tasks):
            task.cancel()


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
