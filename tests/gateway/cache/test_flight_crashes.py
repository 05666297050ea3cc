"""Flights among processes of which one is killed, and with a store that is killed or hangs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from adapters.errors import Interrupted
from gateway.cache.messages import Join
from tests.gateway.cache.workers import Upstream, reading, worker, workers
from tests.gateway.state_server import RealServer
from tests.patience import Stopwatch

pytestmark = pytest.mark.anyio

IMPATIENT = {"patience_seconds": 0.5}  # with the store


class Process:
    """A worker in a process: see `flight_process`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[str] = []

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def until(self, awaited: str) -> None:
        """Return once it has told this line."""
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode().strip():
            self.told.append(line)
            if line == awaited:
                return
        raise AssertionError(f"it ended without {awaited!r}: {self.told}")

    async def end(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def processes(url: str, count: int) -> AsyncIterator[list[Process]]:
    command = (sys.executable, "-m", "tests.gateway.cache.flight_process", url)
    pipe = asyncio.subprocess.PIPE
    started = [
        Process(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))
        for _ in range(count)
    ]
    try:
        await asyncio.gather(*(process.until("ready") for process in started))
        yield started
    finally:
        for process in started:
            await process.end()


async def test_a_leader_killed_before_its_first_piece_is_replaced(server: RealServer) -> None:
    async with processes(server.url, 4) as (leader, *others):
        leader.tell("ask")
        await leader.until("asked")
        for other in others:
            other.tell("ask")
        for _ in others:
            await leader.until("joined")
        await leader.end()
        async with Stopwatch() as watch:
            for other in others:
                other.tell("end a")
            await asyncio.gather(*(other.until("done") for other in others))
        assert watch.seconds < 6.5
        for other in others:
            assert other.told.count("piece a") == 1
        assert sum("asked" in other.told for other in others) == 1


async def test_followers_with_pieces_get_an_error_when_the_leader_is_killed(
    server: RealServer,
) -> None:
    async with processes(server.url, 3) as (leader, *others):
        leader.tell("ask")
        await leader.until("asked")
        for other in others:
            other.tell("ask")
        leader.tell("say a")
        await asyncio.gather(*(other.until("piece a") for other in others))
        await leader.end()
        async with Stopwatch() as watch:
            await asyncio.gather(*(other.until("error Interrupted") for other in others))
        assert watch.seconds < 6.5


@pytest.mark.parametrize("trouble", ["kill", "hang"])
async def test_without_a_store_every_worker_serves_its_own(
    server: RealServer, trouble: str
) -> None:
    async with workers(server.url, 2, **IMPATIENT) as both:
        getattr(server, trouble)()
        upstreams = [Upstream(), Upstream()]
        asking = [
            asyncio.ensure_future(one.ask(upstream))
            for one, upstream in zip(both * 5, upstreams * 5, strict=True)
        ]
        for upstream in upstreams:
            upstream.say("a", last=True)
        async with Stopwatch() as watch:
            assert await asyncio.gather(*asking) == [["a"]] * 10
        assert watch.seconds < 1
        assert [upstream.makes for upstream in upstreams] == [1, 1]
        server.go_on()


@pytest.mark.parametrize("trouble", ["kill", "hang"])
async def test_followers_that_wait_when_the_store_is_lost_make_their_own(
    server: RealServer, trouble: str
) -> None:
    async with workers(server.url, 2, **IMPATIENT) as (one, other):
        leading, following = Upstream(), Upstream()
        tasks = [reading(await one.seat(leading)), reading(await other.seat(following))]
        await one.bus.heard(Join)
        getattr(server, trouble)()
        async with Stopwatch() as watch:
            leading.say("a", last=True)
            following.say("b", last=True)
            assert await asyncio.gather(*tasks) == [["a"], ["b"]]
        assert watch.seconds < 6
        server.go_on()


@pytest.mark.parametrize("trouble", ["kill", "hang"])
async def test_a_follower_in_the_midst_ends_with_a_clean_error_when_the_store_is_lost(
    server: RealServer, trouble: str
) -> None:
    async with workers(server.url, 2, **IMPATIENT) as (one, other):
        upstream = Upstream()
        leading, following = await one.seat(upstream), await other.seat(upstream)
        upstream.say("a")
        await asyncio.gather(leading.open(), following.open())
        getattr(server, trouble)()
        async with Stopwatch() as watch:
            upstream.say("b", last=True)
            results = await asyncio.gather(
                reading(leading), reading(following), return_exceptions=True
            )
            assert results[0] == ["a", "b"]
            assert isinstance(results[1], Interrupted)
        assert watch.seconds < 6.5
        server.go_on()


async def test_a_follower_in_the_midst_goes_on_when_the_store_comes_back(
    server: RealServer,
) -> None:
    async with workers(server.url, 2) as (one, other):
        upstream = Upstream()
        leading, following = await one.seat(upstream), await other.seat(upstream)
        upstream.say("a")
        await asyncio.gather(leading.open(), following.open())
        tasks = [reading(leading), reading(following)]
        server.kill()
        upstream.say("b")
        server.start()
        await one.bus.heard(Join, 2)
        upstream.say("c", last=True)
        assert await asyncio.gather(*tasks) == [["a", "b", "c"]] * 2
        assert upstream.makes == 1


async def test_workers_share_again_after_the_store_was_gone(server: RealServer) -> None:
    async with worker(server.url) as one, worker(server.url) as other:
        server.kill()
        upstream = Upstream()
        upstream.say("a", last=True)
        assert await one.ask(upstream) == ["a"]
        server.start()
        for each in (one, other):
            await each.bus.wait_until_up()
            await each.recovered()
        again = Upstream()
        tasks = [asyncio.ensure_future(each.ask(again)) for each in (one, other)]
        await asyncio.wait([asyncio.ensure_future(again.asked.wait())])
        again.say("b", last=True)
        assert await asyncio.gather(*tasks) == [["b"]] * 2
        assert again.makes == 1
