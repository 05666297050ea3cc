"""How a worker's server ends: whoever may be sending at that moment is answered."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from gateway.departure import RETIRE, Departure
from gateway.server import Server
from gateway.worker import server_config
from tests.gateway.running import Wire, connected
from tests.patience import PATIENCE_SECONDS, Stopwatch, within

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n"
PARTING_SECONDS = 1


@dataclass
class Site:
    """A server, and an application that answers when it may."""

    departure: Departure
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    starts: int = 0
    port: int = 0

    def started(self) -> None:
        self.starts += 1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The application."""
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        is_stream = scope["path"] == "/stream"
        start = {"type": "http.response.start", "status": 200, "headers": []}
        if not is_stream:
            start["headers"] = [(b"content-length", b"2")]
        if is_stream:
            await send(start)
            await send({"type": "http.response.body", "body": b"he", "more_body": True})
        self.asked.set()
        await self.may_answer.wait()
        if not is_stream:
            await send(start)
        await send({"type": "http.response.body", "body": b"hi"})

    def tell(self, number: int) -> None:
        """Let the server hear a signal."""
        self.server.handle_exit(number, None)

    async def end(self) -> None:
        """Wait until the server has ended."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.serving


@asynccontextmanager
async def serving(*, drain_seconds: float = 60, retire_seconds: float = 60) -> AsyncIterator[Site]:
    """Yield a server that accepts connections, and end it."""
    departure = Departure(drain_seconds=drain_seconds, retire_seconds=retire_seconds)
    site = Site(departure)
    listener = socket.create_server(("127.0.0.1", 0))
    site.port = listener.getsockname()[1]
    config = server_config(site, drain_seconds=drain_seconds)  # type: ignore[arg-type]
    site.server = Server(config, departure, on_started=site.started)
    site.serving = asyncio.create_task(site.server._serve([listener]))  # without its signals
    async with connected(site.port) as wire:
        site.may_answer.set()
        await answer_to(wire, GET)
    try:
        yield site
    finally:
        site.may_answer.set()
        site.tell(signal.SIGTERM)
        await site.end()


async def answer_to(wire: Wire, data: bytes) -> dict[str, str]:
    """Send `data` and return the headers of the answer, which must be a 200."""
    await wire.send(data)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await wire.answer()
    assert answer.status == 200
    return answer.headers


@pytest.fixture(params=[signal.SIGTERM, RETIRE])
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def test_start_is_told_once(number: int) -> None:
    async with serving() as site:
        assert site.starts == 1
        site.tell(number)
        await site.end()
    assert site.starts == 1


async def test_server_without_connections_ends_at_once(number: int) -> None:
    async with serving() as site:
        site.tell(number)
        async with within(PARTING_SECONDS / 2):
            await site.serving


async def test_request_that_comes_just_after_the_end_began_is_answered(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.protocol._PARTING_SECONDS", PATIENCE_SECONDS)
    async with serving() as site, connected(site.port) as used, connected(site.port) as fresh:
        await answer_to(used, GET)
        site.tell(number)
        await refuses(site.port)

        for wire in (used, fresh):
            assert (await answer_to(wire, GET))["connection"] == "close"
            assert await wire.is_closed()
        await site.end()


async def test_connection_at_rest_ends_after_a_moment(number: int) -> None:
    async with serving() as site, connected(site.port) as wire, connected(site.port) as silent:
        await answer_to(wire, GET)
        site.tell(number)
        async with Stopwatch() as watch, asyncio.timeout(PATIENCE_SECONDS):
            assert await wire.is_closed()
            assert await silent.is_closed()
        assert watch.seconds >= PARTING_SECONDS * 0.9
        await site.end()


async def test_answer_under_way_says_that_it_is_the_last(number: int) -> None:
    async with serving() as site, connected(site.port) as wire:
        site.may_answer.clear()
        site.asked.clear()
        await wire.send(GET)
        await site.asked.wait()
        site.tell(number)
        await refuses(site.port)
        site.may_answer.set()

        assert (await wire.answer()).headers["connection"] == "close"
        assert await wire.is_closed()


async def test_request_after_a_stream_that_could_not_say_it_was_the_last(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.protocol._PARTING_SECONDS", PATIENCE_SECONDS)
    async with serving() as site, connected(site.port) as wire:
        await stream_to_the_end(site, wire, number)

        assert (await answer_to(wire, GET))["connection"] == "close"
        assert await wire.is_closed()


async def test_connection_ends_a_moment_after_such_a_stream(number: int) -> None:
    async with serving() as site, connected(site.port) as wire:
        await stream_to_the_end(site, wire, number)

        async with within(2 * PARTING_SECONDS):
            assert await wire.is_closed()


class BusyReader(asyncio.Protocol):
    """Holds the loop up until the parting is over, with a request on its way."""

    def __init__(self, wire: Wire) -> None:
        self._socket = wire._writer.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        os.write(self._socket, GET)  # the writer would wait for the loop
        time.sleep(PARTING_SECONDS)


def test_request_that_came_while_the_loop_was_busy_is_answered() -> None:
    async def end_and_be_busy() -> None:
        loop = asyncio.get_running_loop()
        busy, waker = socket.socketpair()
        async with serving() as site, connected(site.port) as wire:
            await answer_to(wire, GET)
            reading, _ = await loop.create_connection(lambda: BusyReader(wire), sock=busy)
            site.tell(signal.SIGTERM)
            await refuses(site.port)
            loop.call_later(PARTING_SECONDS / 2, waker.send, b"!")
            try:
                async with within(PARTING_SECONDS):
                    assert (await wire.answer()).headers["connection"] == "close"
            finally:
                reading.close()
                waker.close()

    uvloop.run(end_and_be_busy())  # as in a worker: it looks at its timers before its sockets


async def test_request_whose_head_had_begun_is_waited_for(number: int) -> None:
    async with serving() as site, connected(site.port) as slow, connected(site.port) as silent:
        await answer_to(slow, GET)
        await slow.send(GET[:10])
        site.tell(number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await silent.is_closed()  # the moment is over

        assert (await answer_to(slow, GET[10:]))["connection"] == "close"


async def test_what_drains_is_cut_off_in_time() -> None:
    async with serving(drain_seconds=0.2) as site, connected(site.port) as wire:
        site.may_answer.clear()
        site.asked.clear()
        await wire.send(GET)
        await site.asked.wait()
        site.tell(signal.SIGTERM)
        await site.end()
        assert not site.may_answer.is_set()


async def test_what_retires_is_not_bound_by_the_drain_until_it_is_told() -> None:
    async with serving(drain_seconds=0.2) as site, connected(site.port) as wire:
        site.may_answer.clear()
        site.asked.clear()
        await wire.send(GET)
        await site.asked.wait()
        site.tell(RETIRE)
        done, _ = await asyncio.wait([site.serving], timeout=0.6)
        assert not done
        site.tell(signal.SIGTERM)
        await site.end()


async def refuses(port: int) -> None:
    """Wait until no connection is accepted any more."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                async with connected(port):
                    pass
            except ConnectionRefusedError:
                return


async def stream_to_the_end(site: Site, wire: Wire, number: int) -> None:
    """Let a stream end that began before the server heard of its own end."""
    site.may_answer.clear()
    await wire.send(GET.replace(b"/", b"/stream", 1))
    await wire.read_until(b"he\r\n")
    site.tell(number)
    await refuses(site.port)
    site.may_answer.set()
    await wire.read_until(b"0\r\n\r\n")
