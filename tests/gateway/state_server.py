"""Servers for tests of the state store's client: real ones, and one that answers as it is told."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import hiredis
import pytest

from gateway.embedded import find_server

PROGRAMS = ("valkey", "redis")


def program(name: str) -> str:
    """Return the path of one of PROGRAMS. Skips the test where there is none."""
    if name == "valkey":
        return str(find_server())
    return shutil.which("redis-server") or pytest.skip("there is no redis-server on the PATH")


class RealServer:
    """A server process on a unix socket of `folder`, which keeps nothing."""

    def __init__(self, program: str, folder: Path, *options: str) -> None:
        self.program = program
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}"
        network = ("--port", "0", "--unixsocket", str(self.socket))
        settings = ("--save", "", "--enable-debug-command", "yes")
        self._command = (program, *network, *settings, "--dir", str(folder), *options)
        self.start()

    def start(self) -> None:
        """Return when it answers; also for another time after `kill`."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert any("eady to accept connections" in line for line in self._process.stdout)

    def hang(self) -> None:
        """Let it do nothing more, its connections left open."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(
    folder: Path, answer: Callable[[list[bytes]], bytes | None]
) -> AsyncIterator[str]:
    """Yield the URL of a server that sends what `answer` says to each command; None hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                reply = answer(command)
                if reply is None:
                    return
                writer.write(reply)

    async with _Served(serve) as served:
        server = await asyncio.start_unix_server(served, folder / "scripted")
        async with server:
            yield f"unix://{folder / 'scripted'}"


@asynccontextmanager
async def proxy(
    socket: Path, *, delay_seconds: float = 0.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Yield a TCP port that leads to a unix socket; replies are late by so much."""
    loop = asyncio.get_running_loop()

    def send(writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)

    async def delay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            loop.call_later(delay_seconds, send, writer, data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies, there = await asyncio.open_unix_connection(socket)
        delaying = asyncio.create_task(delay(replies, writer))
        while data := await reader.read(65536):
            there.write(data)
        there.transport.abort()
        await delaying

    async with _Served(serve) as served:
        server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=tls)
        async with server:
            yield server.sockets[0].getsockname()[1]


class _Served:
    """The connections of a server of this process; none of them outlives the block."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        with suppress(ConnectionError):
            await self._serve(reader, writer)
        writer.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._serving.values():
            writer.transport.abort()
        if self._serving:
            await asyncio.wait(self._serving)
