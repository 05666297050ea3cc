"""What is changed in the book reaches the workers of all gateways that share it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.book import Book, KeyOptions
from gateway.keys import digest, generate
from gateway.limits import Limits
from tests.acceptance.lifecycle.site import Line, Site, site_at
from tests.gateway.running import Answer
from tests.patience import PATIENCE_SECONDS, Stopwatch
from tests.postgres import postgres_server
from tests.served import wait_until

pytestmark = pytest.mark.anyio

GATEWAYS = WORKERS = 2
NOTICE_SECONDS = 1
PEPPER = "a pepper that two gateways share, as they share their keys"


@pytest.fixture
def book_url() -> Iterator[str]:
    with postgres_server() as server:
        server.execute("CREATE DATABASE shared")
        yield server.url("shared")


@pytest.fixture
async def sites(book_url: str, tmp_path: Path) -> AsyncIterator[list[Site]]:
    """Gateways on one book, with data directories, and so stores, of their own."""
    async with AsyncExitStack() as closing:
        made: list[Site] = []
        for number in range(GATEWAYS):
            folder = tmp_path / str(number)
            folder.mkdir()
            site = site_at(
                folder,
                "m",
                server=f"workers = {WORKERS}",
                more=f'[store]\nbook = "{book_url}"',
                key=made[0].key if made else "",
                env={"DRAGOMAN_PEPPER": PEPPER},
            )
            made.append(await closing.enter_async_context(site))
        yield made


class Customer:
    """A key, and a connection to each worker of each gateway."""

    def __init__(self, lines: list[tuple[Site, Line]]) -> None:
        self._lines = lines

    async def answers(self) -> list[Answer]:
        """Return what each worker answers."""
        return await asyncio.gather(*(site.ask_over(line, "m") for site, line in self._lines))

    async def sees(self, is_it: Callable[[Answer], bool]) -> float:
        """Wait until all workers answer so; return the seconds that it took."""
        async with asyncio.timeout(PATIENCE_SECONDS), Stopwatch() as watch:
            while not all(map(is_it, await self.answers())):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.05)
        return watch.seconds


async def lines_to(site: Site, closing: AsyncExitStack) -> list[tuple[Site, Line]]:
    """Return a connection to each worker: the others are stopped while one accepts."""
    await wait_until(lambda: len(site.served.workers()) == WORKERS)
    workers = site.served.workers()
    lines = []
    for worker in workers:
        for other in workers - {worker}:
            os.kill(other, signal.SIGSTOP)
        try:
            line = await site.connect()
            closing.push_async_callback(line.aclose)
            assert (await site.get(line, "/health")).status == 200
        finally:
            for other in workers - {worker}:
                os.kill(other, signal.SIGCONT)
        lines.append((site, line))
    return lines


def limited_to(count: int) -> Callable[[Answer], bool]:
    return lambda answer: answer.headers.get("x-ratelimit-limit-requests") == str(count)


async def test_changes_reach_all_workers_of_all_gateways_within_a_second(
    sites: list[Site], book_url: str
) -> None:
    async with AsyncExitStack() as closing:
        book = await Book.open(book_url)
        closing.push_async_callback(book.aclose)
        new = generate()
        await book.create_team("red", limits=Limits(rpm=9000), actor="test")
        options = KeyOptions(name="new", team="red", limits=Limits(rpm=5000))
        await book.create_key(new.id, digest(new.text, PEPPER.encode()), options=options)
        for site in sites:
            site.key = new.text
        found = [line for site in sites for line in await lines_to(site, closing)]
        customer = Customer(found)
        assert len(found) == GATEWAYS * WORKERS
        assert all(map(limited_to(5000), await customer.answers()))

        seconds = []
        for rpm in (4000, 3900, 3800):
            await book.update_key(new.id, {"limits": {"rpm": rpm}}, actor="test")
            seconds.append(await customer.sees(limited_to(rpm)))
        assert min(seconds) < NOTICE_SECONDS  # a machine that is busy with others may be late
        await book.update_team("red", {"limits": {"rpm": 3000}}, actor="test")
        await customer.sees(limited_to(3000))
        await book.update_key(new.id, {"models": ("other",)}, actor="test")
        await customer.sees(lambda answer: answer.status in (403, 404))
        await book.revoke_key(new.id)
        await customer.sees(lambda answer: answer.status == 401)
