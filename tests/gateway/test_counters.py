from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.accounts import SHARDS, use_key
from gateway.counters import missing, rebuild
from gateway.drain import Drain
from gateway.quotas import check_settled, settle
from gateway.writer import Writer
from tests.gateway.ledger_work import (
    ALICE,
    BOB,
    RESERVED,
    Stores,
    append,
    begin,
    open_stores,
    record_of,
    until,
    use,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path) as opened:
        yield opened


async def test_first_start_makes_all_shards_ready_before_it_returns(stores: Stores) -> None:
    assert len(await missing(stores.state)) == SHARDS

    async with Writer(stores.state, stores.book, stores.spool):
        assert await missing(stores.state) == []


async def test_wiped_store_gets_its_counters_back_from_the_book(stores: Stores) -> None:
    async def ready() -> bool:
        return await missing(stores.state) == []

    async with Writer(stores.state, stores.book, stores.spool):
        await use(stores, ALICE, times=4)
        await use(stores, BOB, times=2)
        before = {
            (account.shard, scope): await stores.counters(account.shard, scope)
            for account in (ALICE, BOB)
            for scope in account.scopes
        }
        await Drain(stores.state, stores.book).move_all()

        await stores.state.call("FLUSHALL")
        await until(ready)

        assert before == {place: await stores.counters(*place) for place in before}
        assert before[ALICE.shard, "team:red"] == [4, 800, 12, 0, 0, 4_000]


async def test_records_in_the_stream_count_when_only_the_counters_were_lost(
    stores: Stores,
) -> None:
    await stores.make_ready()
    await use(stores, ALICE, times=3)
    await stores.state.call("DEL", f"ready:{{q{ALICE.shard:02}}}", ALICE.keys[4])

    await rebuild(stores.state, stores.book, shards=[ALICE.shard])

    assert await stores.counters(ALICE.shard, "key:alice") == [3, 600, 9, 0, 0, 3_000]


async def test_counters_that_are_known_are_never_overwritten(stores: Stores) -> None:
    await stores.make_ready()
    await use(stores, ALICE, times=2)
    await stores.state.call("HINCRBY", use_key(ALICE.shard, "key:alice"), "d2", 1)

    await rebuild(stores.state, stores.book, shards=[ALICE.shard])

    assert await stores.counters(ALICE.shard, "key:alice") == [2, 401, 6, 0, 0, 2_000]


async def test_rebuilt_counters_hold_what_requests_under_way_reserved(stores: Stores) -> None:
    await stores.make_ready()
    await use(stores, BOB)
    settlement = await begin(stores, BOB)
    await stores.state.call("DEL", f"ready:{{q{BOB.shard:02}}}", BOB.keys[4])

    async with Writer(stores.state, stores.book, stores.spool):
        assert await stores.counters(BOB.shard, "key:bob") == [2, 300, 6, 0, 0, 2_000]
        check_settled(await settle(stores.state, settlement))
        assert await stores.counters(BOB.shard, "key:bob") == [2, 400, 6, 0, 0, 2_000]


async def test_more_scopes_than_fit_into_one_call_are_rebuilt(stores: Stores) -> None:
    for number in range(1_100):
        record = msgspec.structs.replace(record_of(BOB, RESERVED), key_id=f"key{number}")
        seconds, _ = await stores.state.call("TIME")
        await append(stores, record, at_ms=int(seconds) * 1000)

    async with Writer(stores.state, stores.book, stores.spool):
        found = [await stores.counters(BOB.shard, f"key:key{number}") for number in range(1_100)]

    assert found == [[1, 100, 3, 0, 0, 1_000]] * 1_100
