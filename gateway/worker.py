"""One worker process: the application on an inherited socket. Started by `gateway.serve`."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import uvicorn
import uvloop
from litestar import Litestar

from gateway.app import create_app
from gateway.assignment import Assignment
from gateway.book import Book
from gateway.departure import RETIRE, Departure
from gateway.keys import load_pepper
from gateway.logs.access_log import AccessLog
from gateway.logs.diagnostics import configure_logging
from gateway.metrics.metrics import Metrics
from gateway.protocol import Protocol
from gateway.server import Server
from gateway.store import Stores

_IDLE_SECONDS = 75  # longer than load balancers keep theirs, so that they never race a close
_BACKLOG = 2048


def main() -> int:
    """Serve until SIGTERM or `RETIRE`, then finish what is under way and return 0.

    Until there is a server, nothing is under way and a signal ends the process at once.
    """
    assignment = Assignment.take()
    os.read(assignment.start_fd, 1)
    uvloop.run(_serve(assignment))
    return 0


def server_config(app: Litestar, *, drain_seconds: float) -> uvicorn.Config:
    """Return how uvicorn serves `app`; `drain_seconds` bound the end of its own server."""
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
    configure_logging(settings.logs)
    data_dir = Path(assignment.data_dir)
    departure = Departure(
        drain_seconds=settings.server.drain_seconds, retire_seconds=settings.server.retire_seconds
    )
    metrics = Metrics(settings, worker=str(assignment.worker))
    book = await Book.open(settings.store.book or data_dir)
    try:
        app = create_app(
            settings,
            book=book,
            pepper=load_pepper(data_dir),
            stores=Stores(
                state_url=assignment.state_url,
                cache_url=assignment.cache_url,
                on_latency=metrics.store_latency,
            ),
            data_dir=data_dir,
            departure=departure,
            loads_first=assignment.loads_first,
            metrics=metrics,
            log=AccessLog(settings.logs) if settings.logs.access else None,
        )
        config = server_config(app, drain_seconds=settings.server.drain_seconds)
        server = Server(config, departure, on_started=partial(_report, assignment))
        _end_on_signals(server)
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked at again
        await server.serve(sockets=[socket.socket(fileno=assignment.fd)])
    finally:
        await book.aclose()


def _report(assignment: Assignment) -> None:
    """Tell the parent that connections are accepted."""
    os.write(assignment.ready_fd, bytes([assignment.worker - 1]))


def _end_on_signals(server: Server) -> None:
    """Let SIGTERM and `RETIRE` end `server` in order from now on.

    `handle_exit` raises nothing, it sets a flag: what a handler raises is lost when Python calls
    it in a `__del__` or in the callback of a weak reference. What becomes of the flag

    before `serve` and while it starts  the start is completed, then comes the shutdown
    in the main loop                    the loop ends
    in the shutdown                     SIGTERM shortens it, if others were to serve in its place
    after                               nothing more: that is the end already

    `serve` installs the same handler, then restores this one and raises its signals again.
    """
    for number in (signal.SIGTERM, RETIRE):
        signal.signal(number, server.handle_exit)


if __name__ == "__main__":
    sys.exit(main())
