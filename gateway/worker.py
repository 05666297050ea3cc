"""One worker process: the application on an inherited socket. Started by `gateway.serve`."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn
import uvloop
from litestar import Litestar

from gateway.app import create_app
from gateway.assignment import Assignment
from gateway.book import Book
from gateway.keys import load_pepper
from gateway.protocol import Protocol
from gateway.store import Stores

_IDLE_SECONDS = 75  # longer than load balancers keep theirs, so that they never race a close
_BACKLOG = 2048


def main(argument: str) -> int:
    """Serve until SIGTERM, then finish what is under way and return 0.

    Until there is a server, nothing is under way and SIGTERM ends the process at once.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    assignment = Assignment.parse(argument)
    os.read(assignment.start_fd, 1)
    uvloop.run(_serve(assignment))
    return 0


def server_config(app: Litestar, *, drain_seconds: float) -> uvicorn.Config:
    """Return how uvicorn serves `app`; `drain_seconds` are for what is under way at the end."""
    return uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=int(drain_seconds),
    )


async def _serve(assignment: Assignment) -> None:
    settings = assignment.settings()
    data_dir = Path(assignment.data_dir)
    book = await Book.open(settings.store.book or data_dir)
    try:
        stores = Stores(state_url=assignment.state_url, cache_url=assignment.cache_url)
        app = create_app(
            settings, book=book, pepper=load_pepper(data_dir), stores=stores, data_dir=data_dir
        )
        config = server_config(app, drain_seconds=settings.server.drain_seconds)
        server = uvicorn.Server(config)
        _end_on_sigterm(server)
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked at again
        await server.serve(sockets=[socket.socket(fileno=assignment.fd)])
    finally:
        await book.aclose()


def _end_on_sigterm(server: uvicorn.Server) -> None:
    """Let SIGTERM end `server` in order from now on.

    `handle_exit` raises nothing, it sets a flag: what a handler raises is lost when Python calls
    it in a `__del__` or in the callback of a weak reference. What becomes of the flag

    before `serve` and while it starts  the start is completed, then comes the shutdown
    in the main loop                    it is looked at every tenth of a second
    in the shutdown and after           nothing more: that is the end already

    `serve` installs the same handler, then restores this one and raises its signals again.
    """
    signal.signal(signal.SIGTERM, server.handle_exit)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
