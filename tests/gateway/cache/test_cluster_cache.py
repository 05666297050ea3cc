"""The cache on a cluster: what is kept, who makes it, and how workers reach each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.cache.bus import Bus
from gateway.cache.files import AnswerFiles
from gateway.cache.inventory import clear, describe_server, holdings
from gateway.cache.keys import storage_key
from gateway.cache.messages import Gone
from gateway.store import Store
from tests.cluster import Cluster, Member
from tests.gateway.cache.workers import Upstream, workers
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

WORKERS = ("a", "b", "c", "d")


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[Store]:
    store = Store(cluster.url, timeout_seconds=2, probe_seconds=0.05)
    await store.each("FLUSHALL")
    yield store
    await store.aclose()


async def test_workers_share_answers_that_are_made_on_any_server(
    cluster: Cluster, store: Store
) -> None:
    keys = [f"flight:{{d{number}}}" for number in range(12)]
    assert len({cluster.owner(key).port for key in keys}) == 3
    async with workers(cluster.url, 2) as both:
        for key in keys:
            upstream = Upstream()
            asking = [
                asyncio.ensure_future(worker.ask(upstream, key))
                for _ in range(5)
                for worker in both
            ]
            await upstream.asked.wait()
            upstream.say("a", "b", last=True)
            assert await asyncio.gather(*asking) == [["a", "b"]] * 10
            assert upstream.makes == 1
        assert [worker.shelf.troubles for worker in both] == [1, 1]  # the script told ahead


async def test_answers_of_all_servers_are_counted_and_cleared(store: Store, tmp_path: Path) -> None:
    for number in range(50):
        await store.call("SET", storage_key(f"{number:064}", model="m", scope="key.k"), b"12345")
    await store.call("SET", "other", "stays")

    held = await holdings(store)
    cleared = await clear(store, AnswerFiles(tmp_path, limit_bytes=0))

    assert (held["m"].answers, held["m"].size_bytes) == (50, 250)
    assert cleared.answers == 50
    assert await holdings(store) == {}
    assert sum(await store.each("DBSIZE")) == 1


async def test_the_servers_are_described_together(cluster: Cluster, store: Store) -> None:
    for limit, member in enumerate(cluster.members, 100):
        member.ask("CONFIG", "SET", "maxmemory", f"{limit}mb")
    described = await describe_server(store)
    cluster.members[1].ask("CONFIG", "SET", "maxmemory", 0)
    unbounded = await describe_server(store)
    for member in cluster.members:
        member.ask("CONFIG", "SET", "maxmemory", 0)

    assert described.limit_bytes == (100 + 101 + 102) * 1024**2
    assert described.used_bytes > 3 * 100_000
    assert unbounded.limit_bytes == 0


async def test_messages_reach_a_worker_on_any_server(cluster: Cluster, store: Store) -> None:
    assert len({cluster.owner(f"flights:{name}").port for name in WORKERS}) == 3
    for name in WORKERS:
        heard: asyncio.Queue[object] = asyncio.Queue()
        bus = Bus(store, worker_id=name)
        bus.open(heard.put_nowait, on_down=lambda: None)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await bus.wait_until_up()
            assert await bus.send(name, Gone("x:1")) == 1
            assert await heard.get() == Gone("x:1")
            await bus.aclose()
            while await bus.send(name, Gone("x:1")):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0)


async def test_a_channel_whose_slot_moves_is_listened_to_at_its_new_server(
    cluster: Cluster, store: Store
) -> None:
    channel = "flights:a"
    source = cluster.owner(channel)
    to = next(member for member in cluster.members if member is not source)
    heard: asyncio.Queue[object] = asyncio.Queue()
    down = asyncio.Event()
    bus = Bus(store, worker_id="a")
    bus.open(heard.put_nowait, on_down=down.set)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await bus.wait_until_up()
        await asyncio.to_thread(give, cluster, channel, to)
        await down.wait()
        await bus.wait_until_up()
        assert await bus.send("a", Gone("x:1")) == 1
        assert await heard.get() == Gone("x:1")
    await bus.aclose()
    await asyncio.to_thread(give, cluster, channel, source)


def give(cluster: Cluster, key: str, to: Member) -> None:
    cluster.move_slot(key, to)
    assert cluster.owner(key) is to
