"""`dragoman serve` as a process: how it starts, what survives, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.keys import parse
from tests.cluster import Cluster
from tests.gateway.running import Wire, connected, request_head
from tests.gateway.state_server import RealServer
from tests.patience import PATIENCE_SECONDS
from tests.served import children, is_running, serve, wait_until

pytestmark = pytest.mark.anyio

BODY = json.dumps(
    {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
).encode()
CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n'
LAST = (
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)


class SlowUpstream:
    """Streams one chunk, and the end only when `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + CHUNK)
        await self.go_on.wait()
        writer.write(LAST)
        writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[SlowUpstream]:
    upstream = SlowUpstream()
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    yield upstream
    upstream.go_on.set()
    server.close()
    await server.wait_closed()


@pytest.fixture
def config(tmp_path: Path, upstream: SlowUpstream) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(f"""
        [[upstreams]]
        name = "u"
        dialect = "openai"
        base_url = "http://127.0.0.1:{upstream.port}"
        [[models]]
        id = "m"
        targets = [{{ upstream = "u" }}]
    """)
    return path


async def refused(data_dir: Path, *options: str | Path) -> str:
    """Return the one line with which the command refuses to start."""
    async with serve(data_dir, *options) as served:
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, _ = await served.process.communicate()
    assert served.process.returncode == 2
    (line,) = out.decode().splitlines()
    return line


async def ask(port: int, key: str) -> int:
    async with connected(port) as client:
        await client.send(request_head(key, path="/v1/models").replace(b"POST", b"GET", 1))
        return (await client.answer()).status


async def read_until(client: Wire, mark: bytes) -> bytes:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await client.read_until(mark)


async def test_the_first_run_shows_its_keys_and_no_other_does(tmp_path: Path, config: Path) -> None:
    async with serve(tmp_path / "data", "--config", config) as served:
        port, key = await served.ready(), await served.key()
        assert parse(key)
        assert len(re.findall("sk-dm-admin_", served.said)) == 1
        assert await ask(port, key) == 200
        assert await served.end(signal.SIGTERM) == 0
    assert served.said.count("sk-dm_") == 1
    async with serve(tmp_path / "data", "--config", config) as again:
        port = await again.ready()
        assert await ask(port, key) == 200
        assert await again.end(signal.SIGTERM) == 0
    assert "sk-dm" not in again.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_all_its_processes(
    tmp_path: Path, config: Path, number: signal.Signals
) -> None:
    async with serve(tmp_path / "data", "--config", config, "--workers", "3") as served:
        await served.ready()
        pids = children(served.process.pid)
        assert len([line for line in pids.values() if "gateway.worker" in line]) == 3
        assert await served.end(number) == 0
    assert not [pid for pid in pids if is_running(pid)]
    assert "is killed" not in served.said  # as after the drain, which the test would sit out
    assert "Traceback" not in served.said


async def test_a_port_in_use_is_refused(tmp_path: Path, config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = await refused(tmp_path / "data", "--config", config, "--port", str(port))
    assert line == f"dragoman: cannot listen on 127.0.0.1:{port}: Address already in use"


async def test_an_address_of_no_host_is_refused(tmp_path: Path, config: Path) -> None:
    line = await refused(tmp_path / "data", "--config", config, "--host", "nope.invalid")
    assert line.startswith("dragoman: cannot listen on nope.invalid:0: ")
    assert "Unknown error" not in line


async def test_the_url_of_a_clusters_node_is_refused_before_anything_is_made(
    tmp_path: Path, config: Path, cluster: Cluster
) -> None:
    with config.open("a") as file:
        file.write(f"[store]\nstate = '{cluster.urls[0]}'")
    line = await refused(tmp_path / "data", "--config", config)
    assert line.endswith(
        "store.state: is a node of a cluster: begin its URL with 'redis+cluster://'"
    )
    assert not (tmp_path / "data" / "book.sqlite3").exists()


@pytest.mark.parametrize("has_stores", [True, False])
async def test_a_second_gateway_on_one_data_directory_is_refused(
    tmp_path: Path, config: Path, server: RealServer, has_stores: bool
) -> None:
    if has_stores:
        with config.open("a") as file:
            file.write(f"[store]\nstate = '{server.url}'\ncache = '{server.url}?db=1'")
    async with serve(tmp_path / "data", "--config", config) as served:
        port = await served.ready()
        line = await refused(tmp_path / "data", "--config", config)
        assert str(tmp_path / "data") in line
        assert await ask(port, await served.key()) == 200


async def test_a_stream_under_way_ends_well_before_the_process_does(
    tmp_path: Path, config: Path, upstream: SlowUpstream
) -> None:
    async with serve(tmp_path / "data", "--config", config) as served:
        port, key = await served.ready(), await served.key()
        async with connected(port) as client:
            await client.send(request_head(key, content_length=len(BODY)) + BODY)
            await read_until(client, b'"content":"Hi"')
            ending = asyncio.create_task(served.end(signal.SIGTERM))
            await wait_until(lambda: not listens(port))
            upstream.go_on.set()
            assert b'"finish_reason":"stop"' in await read_until(client, b"data: [DONE]\n\n")
        assert await ending == 0


def listens(port: int) -> bool:
    """Whether a listening socket of that port exists, without connecting to it."""
    address, listening = f"0100007F:{port:04X}", "0A"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1] == address and line.split()[3] == listening for line in lines)


async def test_a_killed_worker_is_replaced_and_requests_go_on(tmp_path: Path, config: Path) -> None:
    async with serve(tmp_path / "data", "--config", config) as served:
        port, key = await served.ready(), await served.key()
        (worker,) = [
            pid for pid, line in children(served.process.pid).items() if "gateway.worker" in line
        ]
        os.kill(worker, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await ask(port, key) == 200
        assert worker not in children(served.process.pid)
        assert await served.end(signal.SIGTERM) == 0


async def test_a_killed_parent_leaves_nothing_behind(tmp_path: Path, config: Path) -> None:
    async with serve(tmp_path / "data", "--config", config, "--workers", "2") as served:
        await served.ready()
        pids = children(served.process.pid)
        assert len(pids) >= 4
        await served.end(signal.SIGKILL)
        await wait_until(lambda: not [pid for pid in pids if is_running(pid)])


async def test_gateway_ends_with_the_terminal_it_was_started_from(
    tmp_path: Path, config: Path
) -> None:
    keyboard, terminal = os.openpty()
    async with serve(tmp_path / "data", "--config", config, terminal=terminal) as served:
        os.close(terminal)
        await served.ready()
        os.close(keyboard)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await served.process.communicate()
    assert served.process.returncode == 0
