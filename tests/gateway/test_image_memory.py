"""A hundred large images leave hardly more memory behind than one does.

The gateway is a process of its own, because resident memory is a property of the whole process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.generations import WORKER_MALLOC
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

IMAGES, AT_ONCE, SIZE_BYTES = 100, 8, 4 * 1024 * 1024
MOST_LEFT_BYTES = 50 * 1024 * 1024

_ROOT = Path(__file__).parents[2]


def large_png() -> bytes:
    """Return a small picture with a large comment, which every decoder passes over."""
    head = (16).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    chunks = (
        (b"IHDR", head),
        (b"IDAT", zlib.compress(bytes(17 * 16))),
        (b"abCd", os.urandom(SIZE_BYTES)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        b"%b%b%b%b"
        % (len(data).to_bytes(4, "big"), kind, data, zlib.crc32(kind + data).to_bytes(4, "big"))
        for kind, data in chunks
    )


PICTURE = large_png()
ANSWERS = {
    "hf": PICTURE,
    "openai": b'{"data": [{"b64_json": "%b"}]}' % base64.b64encode(PICTURE),
}


async def paint(visit: Visit) -> None:
    body = ANSWERS["hf" if visit.path.startswith("/models/") else "openai"]
    await visit.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), body)


@dataclass
class Measured:
    """A gateway in another process."""

    process: asyncio.subprocess.Process
    port: int
    key: str

    async def resident_bytes(self) -> int:
        """Return what it occupies in memory now."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(b"\n")
        return int(await self.process.stdout.readline())

    async def ask(self, body: bytes) -> int:
        """Send one request, throw the answer away as it comes and return its length."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = (
            "POST /v1/images/generations HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        assert b" 200 " in await reader.readline()
        length = 0
        while block := await reader.read(2**16):
            length += len(block)
        writer.close()
        await writer.wait_closed()
        return length


@asynccontextmanager
async def measured_gateway(upstream_url: str, data_dir: Path) -> AsyncIterator[Measured]:
    settings = {
        "upstreams": [
            {"name": name, "dialect": name, "base_url": upstream_url} for name in ANSWERS
        ],
        "models": [
            {"id": name, "task": "image", "targets": [{"upstream": name}]} for name in ANSWERS
        ],
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.gateway.gateway_process"),
        *(json.dumps(settings), str(data_dir)),
        cwd=_ROOT,
        env={**os.environ, **WORKER_MALLOC},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    try:
        port, key = (await process.stdout.readline()).decode().split()
        yield Measured(process, int(port), key)
    finally:
        process.stdin.close()
        await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "wish"),
    [
        ("hf", {}),
        ("hf", {"stream": True}),
        ("openai", {}),
    ],
)
async def test_large_images_leave_no_memory_behind(
    tmp_path: Path, model: str, wish: dict[str, object]
) -> None:
    body = json.dumps({"model": model, "prompt": "fox", **wish}).encode()
    async with Upstream(paint) as upstream, measured_gateway(upstream.url, tmp_path) as gateway:
        await gateway.ask(body)
        before = await gateway.resident_bytes()
        for _ in range(0, IMAGES, AT_ONCE):
            lengths = await asyncio.gather(*(gateway.ask(body) for _ in range(AT_ONCE)))
            assert min(lengths) > SIZE_BYTES
        after = await gateway.resident_bytes()
    assert after - before < MOST_LEFT_BYTES
