"""What was answered is in the book once, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from gateway.keys import parse
from tests.bench.upstream import Upstream
from tests.patience import PATIENCE_SECONDS
from tests.ports import free_port
from tests.served import children

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KILLS, CLIENTS, WORKERS = 5, 12, 2
ANSWERS = 40  # that come between two kills
COMMAND = "from gateway.cli import main; main()"
CONFIG = """
[server]
workers = {workers}
[[upstreams]]
name = "u"
dialect = "openai"
base_url = "http://127.0.0.1:{port}/v1"
[[models]]
id = "m"
targets = [{{ upstream = "u" }}]
price = {{ input_usd_per_million = 0.3, output_usd_per_million = 0.7 }}
"""


class Gateway:
    """`dragoman serve` on one port and data directory, however often it is begun anew."""

    def __init__(self, folder: Path, upstream_port: int, port: int) -> None:
        self.data_dir = folder / "data"
        self.port = port
        self.key = ""
        self.is_up = asyncio.Event()
        self._config = folder / "dragoman.toml"
        self._config.write_text(CONFIG.format(port=upstream_port, workers=WORKERS))

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", COMMAND, "serve", "--config", self._config),
            *("--data-dir", self.data_dir, "--port", str(self.port)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for line in self.process.stdout:
                word = line.decode().split()[-1:]
                if word and parse(word[0]):
                    self.key = word[0]
                if self.key and (b"admin key" in line or b"  data " in line):
                    self.is_up.set()
                    return
        raise AssertionError("the gateway ended")

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command beside it; return its exit code and what it said."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", COMMAND, *arguments, "--config", self._config),
            *("--data-dir", self.data_dir),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    async def kill(self, part: str) -> None:
        """Kill -9 a worker, the state store, or the parent, which is begun anew."""
        if part == "parent":
            self.is_up.clear()
            self.process.kill()
            await self.process.wait()
            await self.start()
            return
        [pid, *_] = [pid for pid, line in children(self.process.pid).items() if part in line]
        os.kill(pid, signal.SIGKILL)

    async def end(self) -> int:
        """End it as an operator would and return its exit code."""
        self.process.terminate()
        await self.process.communicate()
        return self.process.returncode or 0


class Acknowledged(list[str]):
    """The ids of requests whose answers came whole."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def add(self, request_id: str) -> None:
        self.append(request_id)
        self._news.set()

    async def more(self, count: int) -> None:
        """Wait until `count` more have come."""
        wanted = len(self) + count
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self) < wanted:
                self._news.clear()
                await self._news.wait()


async def ask(gateway: Gateway, acknowledged: Acknowledged, chance: random.Random) -> None:
    """Send requests until cancelled."""
    while True:
        await gateway.is_up.wait()
        stream = chance.random() < 0.5
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
        body |= {"stream": stream, "stream_options": {"include_usage": True}} if stream else {}
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                for _ in range(20):
                    answer = await client.post(
                        f"http://127.0.0.1:{gateway.port}/v1/chat/completions",
                        json=body,
                        headers={"authorization": f"Bearer {gateway.key}"},
                    )
                    whole = answer.text.endswith("data: [DONE]\n\n") if stream else answer.text
                    if answer.status_code == 200 and whole:
                        acknowledged.add(answer.headers["x-request-id"])
        except httpx.HTTPError:
            pass  # what was not acknowledged may be in the book or not


async def test_every_acknowledged_request_is_in_the_book_once(tmp_path: Path) -> None:
    upstream = Upstream(tokens_per_second=200)
    await upstream.start()
    gateway = Gateway(tmp_path, upstream.port, free_port())
    await gateway.start()
    acknowledged = Acknowledged()
    clients = [
        asyncio.create_task(ask(gateway, acknowledged, random.Random(number)))
        for number in range(CLIENTS)
    ]
    try:
        for _ in range(KILLS):
            for part in ("gateway.worker", "state.sock", "parent"):
                await acknowledged.more(ANSWERS)
                await gateway.kill(part)
        await acknowledged.more(ANSWERS)
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    code, said = await gateway.run("usage", "--reconcile")
    assert await gateway.end() == 0
    upstream.close()

    with closing(sqlite3.connect(gateway.data_dir / "book.sqlite3")) as book:
        rows = book.execute("SELECT request_id, status FROM ledger").fetchall()
    recorded = Counter(request_id for request_id, _ in rows)
    lost = [request_id for request_id in acknowledged if request_id not in recorded]
    double = [request_id for request_id, times in recorded.items() if times > 1]
    print(
        f"\n{len(acknowledged)} acknowledged, {len(rows)} in the book "
        f"({dict(Counter(status for _, status in rows))}): "
        f"{len(lost)} lost, {len(double)} double; reconcile: {said.strip()}"
    )
    assert len(acknowledged) > 200
    assert not lost
    assert not double
    assert code == 0, said
    spooled = (gateway.data_dir / "spool").glob("*")
    # What a process had not finished counts for nothing, and goes with the next replay.
    assert not [path for path in spooled if path.suffix != ".tmp"], "left in the spool"
