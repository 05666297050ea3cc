import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import reconcile as reconciling
from gateway.accounts import use_key
from gateway.book import Book, Total
from gateway.config import Settings
from gateway.drain import Drain
from gateway.ledger_stream import oldest, stream_key
from gateway.quotas import check_settled, settle
from gateway.reconcile import Difference, differences, rebuild, reconcile
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
    use,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stores]:
    monkeypatch.setattr(reconciling, "_PAUSE_SECONDS", 0.01)
    async with open_stores(tmp_path) as opened:
        await opened.make_ready()
        yield opened


async def found(stores: Stores) -> list[Difference]:
    return await differences(stores.state, stores.book)


async def test_requests_whole_under_way_and_abandoned_agree(stores: Stores) -> None:
    await use(stores, ALICE, times=3)
    await Drain(stores.state, stores.book).move_all()
    await use(stores, ALICE, times=2)  # in the stream only
    await begin(stores, BOB, lease_ms=0)
    await begin(stores, BOB)  # ends the one before
    await begin(stores, ALICE)

    assert await found(stores) == []


async def test_difference_of_one_token_is_found_and_named(stores: Stores) -> None:
    await use(stores, ALICE, times=2)
    await Drain(stores.state, stores.book).move_all()

    await stores.state.call("HINCRBY", use_key(ALICE.shard, "team:red"), "d2", 1)

    assert await found(stores) == [Difference("team:red", "tokens", 401, 400)]


async def test_lost_record_is_found_in_each_scope_and_meter(stores: Stores) -> None:
    await use(stores, ALICE)
    [(id_, _)] = await stores.state.call("XRANGE", stream_key(ALICE.shard), "-", "+")
    await stores.state.call("XDEL", stream_key(ALICE.shard), id_)

    assert await found(stores) == [
        Difference(scope, meter, counter, 0)
        for scope in ("key:alice", "team:red")
        for meter, counter in (("images", 3), ("nano_usd", 1000), ("requests", 1), ("tokens", 200))
    ]


async def test_record_that_was_never_counted_is_found(stores: Stores) -> None:
    seconds, _ = await stores.state.call("TIME")
    await append(stores, record_of(BOB, RESERVED), at_ms=int(seconds) * 1000)

    assert {one.meter for one in await found(stores)} == {
        "images",
        "nano_usd",
        "requests",
        "tokens",
    }


async def test_counters_and_records_of_other_days_and_months_do_not_matter(
    stores: Stores,
) -> None:
    await append(stores, record_of(BOB, RESERVED), at_ms=1_000_000)
    key = use_key(BOB.shard, "key:bob")
    await stores.state.call("HSET", key, "d", 11, "d1", 9, "m", 23_640, "m1", 9)

    assert await found(stores) == []


async def test_only_speech_counts_characters_and_only_transcription_sound(
    stores: Stores,
) -> None:
    seconds, _ = await stores.state.call("TIME")
    for task in ("chat", "speech", "transcription"):
        record = msgspec.structs.replace(
            record_of(BOB, RESERVED), task=task, characters=10, audio_ms=1000
        )
        await append(stores, record, at_ms=int(seconds) * 1000)
    in_stream = {one.meter: one.ledger for one in await found(stores)}
    await Drain(stores.state, stores.book).move_all()

    assert {one.meter: one.ledger for one in await found(stores)} == in_stream
    assert (in_stream["characters"], in_stream["audio_ms"]) == (10, 1000)


async def test_record_that_is_in_the_book_and_still_in_the_stream_counts_once(
    stores: Stores,
) -> None:
    await use(stores, ALICE, times=3)
    items = await oldest(stores.state, ALICE.shard)
    await stores.book.add_entries([item.entry for item in items[:2] if item.entry])

    assert await found(stores) == []


@pytest.mark.parametrize("before", [0, 2])
async def test_record_that_comes_after_the_snapshot_does_not_count(
    stores: Stores, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "_LOOKS", 1)
    totals = stores.book.totals

    async def totals_later(**which: Any) -> AsyncIterator[list[Total]]:
        if ALICE.shard in which["upto"]:
            await use(stores, ALICE)
            await Drain(stores.state, stores.book).move_all()
        async for some in totals(**which):
            yield some

    await use(stores, ALICE, times=before)
    await Drain(stores.state, stores.book).move_all()
    monkeypatch.setattr(stores.book, "totals", totals_later)

    assert await found(stores) == []
    assert len(await stores.rows()) > before


async def test_counters_agree_at_any_moment_under_load(stores: Stores) -> None:
    is_over = asyncio.Event()

    async def caller(number: int) -> None:
        account, turn = (ALICE, BOB)[number % 2], 0
        while not is_over.is_set():
            turn += 1
            is_late, is_lost = turn % 25 == 0, turn % 6 == 0
            lease_ms = 1 if is_late or turn % 12 == 0 else 60_000
            settlement = await begin(stores, account, lease_ms=lease_ms)
            await asyncio.sleep(0.002)
            if not is_lost:
                check_settled(await settle(stores.state, settlement))

    async with Writer(stores.state, stores.book, stores.spool):
        load = [asyncio.create_task(caller(number)) for number in range(10)]
        looks = [await found(stores) for _ in range(3)]
        is_over.set()
        await asyncio.gather(*load)
        last_look = await found(stores)

    assert [*looks, last_look] == [[]] * 4
    assert {row["status"] for row in await stores.rows()} == {"ok", "abandoned"}


async def test_it_works_beside_a_running_gateway(stores: Stores) -> None:
    await use(stores, ALICE, times=2)

    assert await reconcile(Settings(), stores.data_dir, stores.book) == []
    assert len(await stores.rows()) == 2


async def test_it_works_while_no_gateway_runs(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        await stores.make_ready()
        await use(stores, ALICE, times=2)
        await stores.state.call("HINCRBY", use_key(ALICE.shard, "key:alice"), "d2", -1)
    book = await Book.open(tmp_path)

    assert await reconcile(Settings(), tmp_path, book) == [
        Difference("key:alice", "tokens", 399, 400)
    ]

    await book.aclose()


async def test_configured_store_is_the_one_that_is_read(stores: Stores, tmp_path: Path) -> None:
    await use(stores, ALICE)
    await stores.state.call("HINCRBY", use_key(ALICE.shard, "key:alice"), "d2", 1)
    settings = Settings.model_validate({"store": {"state": stores.url}})

    [difference] = await reconcile(settings, tmp_path / "elsewhere", stores.book)

    assert difference.counter == difference.ledger + 1


async def test_rebuilding_mends_the_counters_and_keeps_what_is_under_way(
    stores: Stores,
) -> None:
    await use(stores, ALICE, times=2)
    settlement = await begin(stores, ALICE)
    await stores.state.call("HINCRBY", use_key(ALICE.shard, "team:red"), "d2", 5)
    await stores.state.call("HSET", use_key(9, "key:ghost"), "d", 1, "d1", 5)

    await rebuild(Settings(), stores.data_dir, stores.book)

    assert await stores.counters(ALICE.shard, "team:red") == [3, 500, 9, 0, 0, 3_000]
    assert await stores.counters(9, "key:ghost") == [0] * 6
    check_settled(await settle(stores.state, settlement))
    assert await found(stores) == []
