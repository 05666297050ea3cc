import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.accounts import mark_key, shard_keys
from gateway.drain import Drain
from gateway.quotas import RECLAIM, Settlement, check_settled, settle
from gateway.replay import replay
from gateway.spool import Spool
from gateway.store import StoreUnavailable
from gateway.writer import Writer
from tests.gateway.ledger_work import ALICE, BOB, Stores, begin, open_stores, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path) as opened:
        yield opened


VICTIM = """
import asyncio, os, signal, sys
from pathlib import Path
from gateway import quotas
from gateway.book import Book
from gateway.replay import replay
from gateway.store import Store

settle_one, settled = quotas.replay, []

async def settle_and_die(state, settlement):
    await settle_one(state, settlement)
    settled.append(settlement)
    if len(settled) == 20:
        os.kill(os.getpid(), signal.SIGKILL)

async def main(url, folder):
    quotas.replay = settle_and_die
    book = await Book.open(folder.parent)
    await replay(Store(url, timeout_seconds=5), book, folder)

asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
"""


async def spool(stores: Stores, *lines: bytes) -> None:
    kept = Spool(stores.spool)
    await asyncio.gather(*(kept.put(line) for line in lines))
    await kept.aclose()


def is_empty(stores: Stores) -> bool:
    return not list(stores.spool.glob("*.jsonl"))


async def emptied(stores: Stores) -> bool:
    return is_empty(stores)


def line_of(settlement: Settlement) -> bytes:
    return msgspec.json.encode(settlement)


async def test_spooled_settlements_are_replayed(stores: Stores) -> None:
    await stores.make_ready()
    settlements = [await begin(stores, ALICE) for _ in range(3)]
    await spool(stores, *map(line_of, settlements))

    async with Writer(stores.state, stores.book, stores.spool):
        await until(lambda: emptied(stores))

    assert len(await stores.rows()) == 3
    assert await stores.counters(ALICE.shard, "team:red") == [3, 600, 9, 0, 0, 3_000]


async def test_settlement_that_the_store_took_before_counts_once(stores: Stores) -> None:
    await stores.make_ready()
    settlement = await begin(stores, ALICE)
    check_settled(await settle(stores.state, settlement))
    await spool(stores, line_of(settlement), line_of(settlement))

    async with Writer(stores.state, stores.book, stores.spool):
        await until(lambda: emptied(stores))

    assert len(await stores.rows()) == 1
    assert await stores.counters(ALICE.shard, "key:alice") == [1, 200, 3, 0, 0, 1_000]


async def test_settlement_that_only_the_book_remembers_counts_once(stores: Stores) -> None:
    await stores.make_ready()
    settlement = await begin(stores, ALICE)
    check_settled(await settle(stores.state, settlement))
    await Drain(stores.state, stores.book).move_all()
    await stores.state.call("DEL", mark_key(ALICE.shard, settlement.request_id))
    await spool(stores, line_of(settlement))

    await replay(stores.state, stores.book, stores.spool)

    assert is_empty(stores)
    assert await stores.counters(ALICE.shard, "key:alice") == [1, 200, 3, 0, 0, 1_000]


async def test_settlement_of_what_was_abandoned_is_replayed(stores: Stores) -> None:
    await stores.make_ready()
    settlement = await begin(stores, ALICE, lease_ms=0)
    await stores.state.run(RECLAIM, shard_keys(ALICE.shard), ())
    await Drain(stores.state, stores.book).move_all()
    await spool(stores, line_of(settlement))

    await replay(stores.state, stores.book, stores.spool)
    await Drain(stores.state, stores.book).move_all()

    [row] = await stores.rows()
    assert row["status"] == "ok"
    assert await stores.counters(ALICE.shard, "key:alice") == [1, 200, 3, 0, 0, 1_000]


async def test_spool_waits_while_the_counters_are_unknown(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stores.make_ready()
    settlement = await begin(stores, BOB)
    await stores.state.call("DEL", f"ready:{{q{BOB.shard:02}}}")
    await spool(stores, line_of(settlement))
    with pytest.raises(StoreUnavailable):
        await replay(stores.state, stores.book, stores.spool)
    assert not is_empty(stores)

    async with Writer(stores.state, stores.book, stores.spool):
        await until(lambda: emptied(stores))

    assert await stores.counters(BOB.shard, "key:bob") == [1, 200, 3, 0, 0, 1_000]


async def test_shard_that_takes_none_holds_up_no_other(stores: Stores) -> None:
    await stores.make_ready()
    ready = shard_keys(ALICE.shard)[0]
    held = [line_of(await begin(stores, ALICE)) for _ in range(101)]  # more than go at once
    others = [line_of(await begin(stores, BOB)) for _ in range(2)]
    await stores.state.call("DEL", ready)
    await spool(stores, *held, others[0])
    await spool(stores, others[1])

    with pytest.raises(StoreUnavailable):
        await replay(stores.state, stores.book, stores.spool)
    assert await stores.counters(BOB.shard, "key:bob") == [2, 400, 6, 0, 0, 2_000]

    await stores.state.call("SET", ready, 1)
    await replay(stores.state, stores.book, stores.spool)
    assert is_empty(stores)
    assert await stores.counters(ALICE.shard, "key:alice") == [101, 20_200, 303, 0, 0, 101_000]


async def test_replay_that_is_killed_goes_on_and_counts_each_settlement_once(
    stores: Stores,
) -> None:
    await stores.make_ready()
    settlements = [await begin(stores, ALICE) for _ in range(50)]
    await spool(stores, *map(line_of, settlements))

    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, stores.url, str(stores.spool)
    )
    assert await victim.wait() == -signal.SIGKILL
    assert not is_empty(stores)
    async with Writer(stores.state, stores.book, stores.spool):
        await until(lambda: emptied(stores))

    assert len(await stores.rows()) == 50
    assert await stores.counters(ALICE.shard, "key:alice") == [50, 10_000, 150, 0, 0, 50_000]


async def test_lines_that_are_no_settlements_are_put_aside_and_the_others_replayed(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    await stores.make_ready()
    settlement = await begin(stores, BOB)
    wrong_caps = msgspec.structs.replace(settlement, request_id="other", caps=b"")
    torn, foreign = line_of(settlement)[:100], b'{"a": 1}'
    await spool(stores, torn, line_of(settlement), foreign, line_of(wrong_caps))

    async with Writer(stores.state, stores.book, stores.spool):
        await until(lambda: emptied(stores))

    assert len(await stores.rows()) == 1
    [aside] = stores.spool.iterdir()
    assert aside.suffix == ".bad"
    assert aside.read_bytes().splitlines() == [torn, foreign, line_of(wrong_caps)]
    assert "3 settlements cannot be used" in caplog.text


async def test_replay_keeps_what_a_full_store_refuses(stores: Stores) -> None:
    await stores.make_ready()
    settlements = [await begin(stores, BOB) for _ in range(3)]
    await spool(stores, *map(line_of, settlements))
    await stores.state.call("CONFIG", "SET", "maxmemory", 1)

    with pytest.raises(StoreUnavailable):
        await replay(stores.state, stores.book, stores.spool)
    assert not is_empty(stores)
    await stores.state.call("CONFIG", "SET", "maxmemory", 0)
    await replay(stores.state, stores.book, stores.spool)

    assert is_empty(stores)
    assert await stores.counters(BOB.shard, "key:bob") == [3, 600, 9, 0, 0, 3_000]
