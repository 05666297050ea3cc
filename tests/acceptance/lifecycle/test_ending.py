"""The end of the gateway: nobody is cut off who may still be served, and all is in the book."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest

from gateway import embedded
from gateway.store import Store
from tests.acceptance.lifecycle.managers import ServiceManager
from tests.acceptance.lifecycle.site import Line, Site, chunks, ends, load, site_at, streams
from tests.patience import PATIENCE_SECONDS, Stopwatch

pytestmark = pytest.mark.anyio

STREAMS = 20
DRAIN_SECONDS = 1


async def left(data_dir: Path) -> list[bytes]:
    """Return what the state store of a gateway that has ended still holds leases in."""
    pair = await embedded.start(data_dir)
    state = Store(pair.state_url, timeout_seconds=PATIENCE_SECONDS)
    try:
        keys: list[bytes] = await state.call("KEYS", "leases:*")
        return keys
    finally:
        await state.aclose()
        await pair.stop()


def recorded(data_dir: Path) -> int:
    with closing(sqlite3.connect(data_dir / "book.sqlite3")) as book:
        count: int = book.execute("SELECT count(DISTINCT request_id) FROM ledger").fetchone()[0]
        return count


@asynccontextmanager
async def connections(site: Site, count: int) -> AsyncIterator[list[Line]]:
    async with AsyncExitStack() as closing:
        lines = [await site.connect() for _ in range(count)]
        for line in lines:
            closing.push_async_callback(line.aclose)
        yield lines


async def test_sigterm_ends_streams_in_order_and_settles_them(tmp_path: Path) -> None:
    server = f"workers = 1\ndrain_seconds = {PATIENCE_SECONDS}"
    async with site_at(tmp_path, "m", server=server) as site:
        async with load(site, "m", STREAMS) as requests:
            await requests.answers(5 * STREAMS)
        assert requests.lost == 0
        async with connections(site, 3) as lines, streams(site, "m", STREAMS) as begun:
            for line in lines:
                assert (await site.get(line, "/ready")).status == 200
            watching, idle, asking = lines
            ending = asyncio.create_task(site.served.end(signal.SIGTERM))
            while "connection" not in (await site.get(watching, "/health")).headers:
                pass  # the worker has not heard of the end yet

            answer = await site.get(idle, "/ready")
            assert (answer.status, answer.headers["connection"]) == (503, "close")
            assert b'"draining"' in answer.body
            assert await idle.is_closed()
            last = await site.ask_over(asking, "m")
            assert (last.status, last.headers["connection"]) == (200, "close")
            with pytest.raises(ConnectionRefusedError):
                await site.connect()
            await chunks(begun)
            site.speaker.may_end.set()
            await ends(begun)
        assert await ending == 0
    assert "Traceback" not in site.served.said
    # Those whose requesters were gone before the answer may have been made or not.
    made = requests.statuses.total() + STREAMS + 1
    assert made <= recorded(tmp_path / "data") <= made + STREAMS
    assert await left(tmp_path / "data") == []
    assert not list((tmp_path / "data" / "spool").glob("*"))


async def test_sigterm_hurries_a_generation_that_retires(tmp_path: Path) -> None:
    server = f"workers = 1\ndrain_seconds = {DRAIN_SECONDS}"
    async with AsyncExitStack() as ending:
        manager = ending.enter_context(ServiceManager(str(tmp_path / "notify")))
        gateway = site_at(tmp_path, "m", server=server, env=manager.env)
        site = await ending.enter_async_context(gateway)
        await ending.enter_async_context(streams(site, "m", STREAMS))
        site.served.process.send_signal(signal.SIGHUP)
        await site.served.says("reloaded in ")
        await ending.enter_async_context(streams(site, "m", STREAMS))
        assert len(site.served.workers()) == 2
        async with Stopwatch() as watch:
            assert await site.served.end(signal.SIGTERM) == 0
        said = [await manager.hears() for _ in range(4)]
    assert DRAIN_SECONDS <= watch.seconds < DRAIN_SECONDS + 4
    cut = re.findall("([0-9]+) requests took too long to end and are cut off", site.served.said)
    assert sum(map(int, cut)) == 2 * STREAMS
    assert len(cut) == 2
    assert "Traceback" not in site.served.said
    assert "is killed" not in site.served.said
    assert [lines[0] for lines in said] == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
    assert said[1][1].startswith("MONOTONIC_USEC=")
    assert recorded(tmp_path / "data") == 2 * STREAMS
    assert await left(tmp_path / "data") == []
