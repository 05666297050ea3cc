import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gateway.book import BookUnavailable
from gateway.ledger import Entry
from gateway.writer import LEASE_KEY, Writer
from tests.gateway.ledger_work import ALICE, BOB, CHARGED, Stores, begin, open_stores, until, use

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path) as opened:
        yield opened


async def test_records_are_moved_to_the_book(stores: Stores) -> None:
    async with Writer(stores.state, stores.book, stores.spool):
        await use(stores, ALICE, times=3)
        await use(stores, BOB)

        async def moved() -> bool:
            return len(await stores.rows()) == 4

        await until(moved)

    assert await stores.waiting() == 0
    assert {(row["key_id"], row["team"]) for row in await stores.rows()} == {
        ("alice", "red"),
        ("bob", None),
    }


async def test_closing_moves_what_waits(stores: Stores) -> None:
    async with Writer(stores.state, stores.book, stores.spool):
        await use(stores, ALICE, times=5)

    assert await stores.waiting() == 0
    assert len(await stores.rows()) == 5


async def test_one_of_two_gateways_leads_until_it_ends(stores: Stores) -> None:
    async with Writer(stores.state, stores.book, stores.spool):
        first = await stores.state.call("GET", LEASE_KEY)
        async with Writer(stores.state, stores.book, stores.spool):
            assert await stores.state.call("GET", LEASE_KEY) == first
        assert await stores.state.call("GET", LEASE_KEY) == first

    assert await stores.state.call("GET", LEASE_KEY) is None


async def test_leases_of_idle_shards_end(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    await stores.make_ready()
    await begin(stores, BOB, lease_ms=1)
    async with Writer(stores.state, stores.book, stores.spool):

        async def ended() -> bool:
            return bool(await stores.rows())

        await until(ended)

    assert [row["status"] for row in await stores.rows()] == ["abandoned"]
    assert await stores.counters(BOB.shard, "key:bob") == [1, CHARGED.tokens, 0, 0, 0, 70]
    assert "1 requests were abandoned by their workers" in caplog.messages


async def test_book_that_is_away_keeps_records_in_the_stream_until_it_is_back(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0

    async def away(_: object) -> None:
        nonlocal attempts
        attempts += 1
        raise BookUnavailable("the database is away")

    async def tried_twice() -> bool:
        return attempts >= 2

    async def moved() -> bool:
        return await stores.waiting() == 0

    async with Writer(stores.state, stores.book, stores.spool):
        with monkeypatch.context() as patch:
            patch.setattr(stores.book, "add_entries", away)
            await use(stores, ALICE, times=3)
            await until(tried_twice)
            assert await stores.waiting() == 3
        await until(moved)

    assert len(await stores.rows()) == 3
    told = [message for message in caplog.messages if "writer" in message]
    assert told == [
        "the ledger's writer: the database is away",
        "the ledger's writer works again",
    ]


async def test_gateway_that_is_gone_loses_its_lead(stores: Stores) -> None:
    await stores.state.call("SET", LEASE_KEY, "gone", "PX", 100)

    async with Writer(stores.state, stores.book, stores.spool):
        await use(stores, BOB)

        async def moved() -> bool:
            return await stores.waiting() == 0

        await until(moved)

    assert len(await stores.rows()) == 1


async def test_closing_without_the_book_leaves_records_where_they_are(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(_: object) -> None:
        raise BookUnavailable("the database is away")

    monkeypatch.setattr(stores.book, "add_entries", away)
    async with Writer(stores.state, stores.book, stores.spool):
        await use(stores, BOB)

    assert await stores.waiting() == 1
    assert caplog.messages[-1] == ("the last records wait in the state store: the database is away")


async def test_error_that_nobody_thought_of_ends_one_round_only(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add, failed = stores.book.add_entries, asyncio.Event()

    async def fail_once(entries: Sequence[Entry]) -> None:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError
        await add(entries)

    async def moved() -> bool:
        return await stores.waiting() == 0

    monkeypatch.setattr(stores.book, "add_entries", fail_once)
    async with Writer(stores.state, stores.book, stores.spool):
        await use(stores, BOB)
        await failed.wait()
        await until(moved)

    assert len(await stores.rows()) == 1
    assert "ZeroDivisionError" in caplog.text
