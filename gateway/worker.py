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
    """Serve until SIGTERM, then finish what is under way and return 0."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # For the time before uvicorn listens to signals, and after: it raises the signal again once
    # it has shut down, and with this handler that is an ordinary end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
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
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked at again
        await uvicorn.Server(config).serve(sockets=[socket.socket(fileno=assignment.fd)])
    finally:
        await book.aclose()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
