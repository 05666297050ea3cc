"""Counters and ledger on a cluster, while it changes as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.accounts import SHARDS, Account, shard_keys
from gateway.book import Book
from gateway.config import Settings
from gateway.counters import missing, scopes_by_shard
from gateway.drain import Drain
from gateway.quotas import RECLAIM, check_settled, settle
from gateway.reconcile import Difference, differences, rebuild, reconcile
from gateway.store import Store, StoreError, StoreUnavailable
from gateway.writer import LEASE_KEY, Writer
from tests.cluster import Cluster
from tests.gateway.ledger_work import ALICE, BOB, Stores, begin, until, use

pytestmark = pytest.mark.anyio

LEASE_MS = 2_000
PAUSE_SECONDS = 0.01  # bounds the marks that settled requests leave, and so how long a move takes
MANY = 200  # settled while shards move
# One of each shard, so that every server has some.
ACCOUNTS = tuple(
    {one.shard: one for one in (Account.of(key_id=f"k{n}") for n in range(500))}.values()
)


@pytest.fixture
async def stores(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Stores]:
    """An empty cluster that knows no counters yet, and an empty book."""
    async with opened(cluster, tmp_path) as stores:
        await stores.state.each("FLUSHALL")
        yield stores


@asynccontextmanager
async def opened(cluster: Cluster, folder: Path) -> AsyncIterator[Stores]:
    state = Store(cluster.url, timeout_seconds=2, probe_seconds=0.1)
    book = await Book.open(folder)
    try:
        yield Stores(folder, cluster.url, state, book)
    finally:
        await state.aclose()
        await book.aclose()


def settings_of(cluster: Cluster) -> Settings:
    return Settings.model_validate({"store": {"state": cluster.url}})


async def test_records_of_all_servers_reach_the_book(cluster: Cluster, stores: Stores) -> None:
    assert len(await missing(stores.state)) == SHARDS
    async with Writer(stores.state, stores.book, stores.spool):
        assert await missing(stores.state) == []
        for account in ACCOUNTS:
            await use(stores, account)
    assert len(ACCOUNTS) == SHARDS
    assert len(await stores.rows()) == SHARDS
    assert await stores.waiting() == 0
    assert await reconcile(settings_of(cluster), stores.data_dir, stores.book) == []
    assert all(await scopes_by_shard(stores.state))


async def test_a_difference_is_found_and_mended_on_any_server(
    cluster: Cluster, stores: Stores
) -> None:
    await stores.make_ready()
    for account in ACCOUNTS:
        await use(stores, account)
    for account in ACCOUNTS[::9]:
        await stores.state.call("HINCRBY", account.keys[4], "d2", 5)

    found = await reconcile(settings_of(cluster), stores.data_dir, stores.book)
    assert found == sorted(
        (Difference(one.scopes[0], "tokens", 205, 200) for one in ACCOUNTS[::9]),
        key=lambda one: one.scope,
    )
    await rebuild(settings_of(cluster), stores.data_dir, stores.book)
    assert await differences(stores.state, stores.book) == []


async def test_a_server_that_lost_its_data_gets_its_counters_back(
    cluster: Cluster, stores: Stores
) -> None:
    async with Writer(stores.state, stores.book, stores.spool):
        for account in ACCOUNTS:
            await use(stores, account)
        await Drain(stores.state, stores.book).move_all()
        cluster.members[1].ask("FLUSHALL")

        async def is_ready() -> bool:
            return await missing(stores.state) == []

        assert 0 < len(await missing(stores.state)) < SHARDS
        await until(is_ready)
        for account in ACCOUNTS:
            assert (await stores.counters(account.shard, account.scopes[0]))[:2] == [1, 200]


async def test_records_of_other_servers_are_moved_while_one_is_gone(
    harmed: Cluster, stores: Stores
) -> None:
    await stores.make_ready()
    for account in ACCOUNTS:
        await use(stores, account)
    gone = harmed.owner(shard_keys(0)[0])
    theirs = [one for one in ACCOUNTS if harmed.owner(one.keys[0]) is gone]
    gone.kill()

    with pytest.raises(StoreUnavailable):
        await Drain(stores.state, stores.book).move()

    assert len(await stores.rows()) == SHARDS - len(theirs)
    assert await missing(stores.state) == []


async def test_writer_serves_the_other_servers_while_that_of_its_lease_is_gone(
    harmed: Cluster, stores: Stores
) -> None:
    gone = harmed.owner(LEASE_KEY)
    emptied = next(member for member in harmed.members if member is not gone)
    others = [one for one in ACCOUNTS if harmed.owner(one.keys[0]) is not gone]
    async with Writer(stores.state, stores.book, stores.spool):
        gone.kill()
        emptied.ask("FLUSHALL")

        async def are_counters_known() -> bool:
            return await missing(stores.state) == []

        async def are_written() -> bool:
            return len(await stores.rows()) == len(others) + 1

        await until(are_counters_known)
        [abandoned, *_] = others
        await begin(stores, abandoned, lease_ms=0)
        for account in others:
            await use(stores, account)
        await until(are_written)

    assert 0 < len(others) < SHARDS
    assert [row["status"] for row in await stores.rows()].count("abandoned") == 1


async def test_nothing_is_lost_or_doubled_while_shards_move(
    cluster: Cluster, stores: Stores
) -> None:
    await stores.make_ready()
    settled: list[str] = []
    refused = 0
    is_over = False

    async def customer(account: Account) -> None:
        nonlocal refused
        while not is_over:
            try:
                settlement = await begin(stores, account, lease_ms=LEASE_MS)
            except StoreError:
                refused += 1
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            while True:
                try:
                    check_settled(await settle(stores.state, settlement))
                except StoreError:
                    await asyncio.sleep(PAUSE_SECONDS)  # as the spool does, which tries again
                else:
                    break
            settled.append(settlement.request_id)
            await asyncio.sleep(PAUSE_SECONDS)

    def move_there_and_back() -> None:
        for account in (ALICE, BOB):
            key = account.keys[0]
            source = cluster.owner(key)
            to = next(member for member in cluster.members if member is not source)
            cluster.move_slot(key, to)
            cluster.move_slot(key, source)

    async def are_many_settled() -> bool:
        await asyncio.to_thread(move_there_and_back)
        return len(settled) > MANY

    customers = [asyncio.create_task(customer(one)) for one in (ALICE, BOB) for _ in range(8)]
    await until(are_many_settled)
    is_over = True
    await asyncio.gather(*customers)
    await until(lambda: _no_leases(stores))

    await Drain(stores.state, stores.book).move_all()
    rows = await stores.rows()
    assert len({row["request_id"] for row in rows}) == len(rows)
    assert {row["request_id"] for row in rows if row["status"] == "ok"} == set(settled)
    assert len(settled) == len(set(settled))
    assert await differences(stores.state, stores.book) == []
    print(f"{len(settled)} settled, {len(rows) - len(settled)} abandoned, {refused} refused")


async def _no_leases(stores: Stores) -> bool:
    for account in (ALICE, BOB):
        await stores.state.run(RECLAIM, shard_keys(account.shard), ())
    return not any([await stores.state.call("HLEN", one.keys[1]) for one in (ALICE, BOB)])


async def test_the_end_of_a_lease_is_told_in_whole_or_not_at_all_while_its_shard_moves(
    cluster: Cluster, stores: Stores
) -> None:
    await stores.make_ready()
    await use(stores, BOB)
    await begin(stores, BOB, lease_ms=0)
    key = BOB.keys[0]
    source = cluster.owner(key)
    to = next(member for member in cluster.members if member is not source)
    cluster.begin_move(key, to)
    try:
        with pytest.raises(StoreError):
            await stores.state.run(RECLAIM, shard_keys(BOB.shard), ())
        assert await stores.state.call("HLEN", BOB.keys[1]) == 1
        assert await stores.state.call("XLEN", BOB.keys[3]) == 1
    finally:
        while cluster.move_keys(key, to):
            pass
        cluster.end_move(key, to)
        cluster.move_slot(key, source)
    assert await stores.state.run(RECLAIM, shard_keys(BOB.shard), ()) == 1
    assert await differences(stores.state, stores.book) == []
