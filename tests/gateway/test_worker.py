"""A worker process that is told to end, at every stage of its life."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.assignment import Assignment
from gateway.book import Book
from gateway.keys import load_pepper
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

HELD = """
import os, signal, sys
from gateway import worker

def before(owner, name):
    call = getattr(owner, name)
    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        print(name, flush=True)
        return call(*args, **kwargs)
    setattr(owner, name, signalled)

for name in sys.argv[1:]:
    before({"open": worker.Book, "create_app": worker}.get(name, worker.Server), name)
sys.exit(worker.main())
"""
"""A worker that gets SIGTERM at the calls that are named, and says which it survives."""


SERVES = b"\0"
"""What the first worker writes to its `ready_fd`, which is its output here."""


@asynccontextmanager
async def working(data_dir: Path, *calls: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a worker that waits for nobody; kill it if it is left at the end."""
    await (await Book.open(data_dir)).aclose()
    load_pepper(data_dir)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = {name: value for name, value in os.environ.items() if "DRAGOMAN" not in name}
        assignment = Assignment(
            fd=listener.fileno(),
            start_fd=0,
            ready_fd=1,
            data_dir=str(data_dir),
            config=None,
            overrides={},
            local_url="http://127.0.0.1:1",
            state_url="redis://127.0.0.1:1",
            cache_url="redis://127.0.0.1:1",
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HELD, *calls),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            env={**ours, **assignment.environment()},
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


@pytest.mark.parametrize("call", ["open", "create_app"])
async def test_sigterm_ends_it_at_once_while_there_is_no_server(tmp_path: Path, call: str) -> None:
    async with working(tmp_path, call) as process, asyncio.timeout(PATIENCE_SECONDS):
        said, _ = await process.communicate()
    assert (process.returncode, said) == (-signal.SIGTERM, b"")


@pytest.mark.parametrize(
    "calls", ["serve", "_serve", "startup", "main_loop", "main_loop shutdown", "serve startup"]
)
async def test_sigterm_ends_the_server_in_order_wherever_it_is(tmp_path: Path, calls: str) -> None:
    async with working(tmp_path, *calls.split()) as process, asyncio.timeout(PATIENCE_SECONDS):
        said, _ = await process.communicate()
    assert (process.returncode, said.decode().replace("\0", "").split()) == (0, calls.split())
    assert said.count(SERVES) == 1
