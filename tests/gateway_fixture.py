"""The real gateway for tests: uvicorn on 127.0.0.1, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
import uvloop

from gateway.app import create_app
from gateway.book import Book, KeyOptions
from gateway.config import Settings
from gateway.keys import digest, generate
from gateway.store import Stores
from tests.patience import PATIENCE_SECONDS

PEPPER = b"a pepper for tests, 32 bytes long"
CREDENTIAL = "hf_the_upstreams_own_secret"  # what gateways in tests show to upstreams


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where it listens, and a key that it accepts."""

    port: int
    key: str

    @property
    def base_url(self) -> str:
        """What SDKs take as `base_url`."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def headers(self) -> dict[str, str]:
        """The credential, as a header."""
        return {"authorization": f"Bearer {self.key}"}


@asynccontextmanager
async def running_gateway(
    settings: Settings,
    data_dir: Path,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    stores: Stores | None = None,
) -> AsyncIterator[Gateway]:
    """Run the application over a book in `data_dir` until the block ends.

    Connections wait in the socket's backlog until it is up. `transport`: instead of a network.
    Without `stores` nothing is metered.
    """
    book = await Book.open(data_dir)
    key = generate()
    await book.create_key(key.id, digest(key.text, PEPPER), options=KeyOptions(name="test"))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(
                settings,
                book=book,
                pepper=PEPPER,
                stores=stores,
                data_dir=data_dir,
                transport=transport,
            ),
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port = listener.getsockname()[1]

    def run() -> None:
        uvloop.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=run, name="gateway", daemon=True)
    thread.start()
    try:
        yield Gateway(port, key.text)
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, PATIENCE_SECONDS)
        await book.aclose()
    assert not thread.is_alive(), "the gateway did not end"
