"""A client of bare sockets, which can leave when it likes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.gateway_fixture import Gateway


@asynccontextmanager
async def sent(
    gateway: Gateway, body: dict[str, Any], *, path: str = "/v1/chat/completions"
) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request over a connection of its own, which ends with the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    data = json.dumps(body).encode()
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: gateway\r\n"
        b"authorization: Bearer %b\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (path.encode(), gateway.key.encode(), len(data), data)
    )
    try:
        yield reader
    finally:
        writer.transport.abort()
