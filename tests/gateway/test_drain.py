import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.drain import Drain
from gateway.ledger_stream import PAGE, stream_key
from gateway.quotas import check_settled, settle
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
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

VICTIM = """
import asyncio, os, signal, sys
from pathlib import Path
from gateway.book import Book
from gateway.store import Store
from gateway.writer import Writer

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main(url, data_dir, moment):
    state, book = Store(url, timeout_seconds=5), await Book.open(data_dir)
    add, call = book.add_entries, state.call

    async def add_and_die(entries):
        await add(entries)
        die()

    def call_and_die(*command):
        future = call(*command)
        if command[0] == "XDEL":
            future.add_done_callback(die)
        return future

    match moment:
        case "before the commit":
            book.add_entries = die
        case "after the commit":
            book.add_entries = add_and_die
        case "after the deletion":
            state.call = call_and_die
    async with Writer(state, book, data_dir / "spool"):
        await asyncio.Event().wait()

asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
"""


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path) as opened:
        yield opened


@pytest.fixture
def drain(stores: Stores) -> Drain:
    return Drain(stores.state, stores.book)


async def test_more_than_a_page_is_moved_at_once(stores: Stores, drain: Drain) -> None:
    await asyncio.gather(*(append(stores, record_of(BOB, RESERVED)) for _ in range(3 * PAGE + 1)))

    await drain.move_all()

    assert await stores.waiting() == 0
    assert len(await stores.rows()) == 3 * PAGE + 1


async def test_record_has_its_time_of_admission_and_its_place(stores: Stores, drain: Drain) -> None:
    await append(stores, record_of(BOB, RESERVED, request_id="one"), at_ms=1_790_000_000_000)
    await drain.move_all()

    [row] = await stores.rows()
    assert (row["request_id"], row["at_ms"]) == ("one", 1_790_000_000_000)


@pytest.mark.parametrize("moment", ["before the commit", "after the commit", "after the deletion"])
async def test_writer_that_is_killed_loses_and_doubles_nothing(
    stores: Stores, drain: Drain, moment: str
) -> None:
    ids = [f"request {number:03}" for number in range(600)]
    for number, request_id in enumerate(ids):
        record = record_of(BOB, RESERVED, request_id=request_id)
        await append(stores, record, shard=number % 2)

    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, stores.url, str(stores.data_dir), moment
    )
    assert await victim.wait() == -signal.SIGKILL
    await drain.move_all()

    assert await stores.request_ids() == ids
    assert await stores.waiting() == 0


async def test_two_writers_at_once_double_nothing(stores: Stores) -> None:
    await stores.make_ready()
    using = asyncio.create_task(use(stores, ALICE, times=300))
    drains = [Drain(stores.state, stores.book) for _ in range(2)]
    while not using.done():
        await asyncio.gather(*(drain.move() for drain in drains))
    await drains[0].move_all()

    assert len(set(await stores.request_ids())) == len(await stores.rows()) == 300


async def test_record_that_replaces_an_abandoned_one_corrects_its_row(
    stores: Stores, drain: Drain
) -> None:
    await stores.make_ready()
    settlement = await begin(stores, BOB, lease_ms=0)
    await begin(stores, BOB)  # whose reservation ends the lease before it
    await drain.move_all()
    assert [row["status"] for row in await stores.rows()] == ["abandoned"]

    check_settled(await settle(stores.state, settlement))
    await drain.move_all()

    [row] = await stores.rows()
    assert (row["status"], row["output_tokens"]) == ("ok", RESERVED.tokens)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (("at", "1", "r", "{"), "DecodeError"),
        (("at", "1", "r", '{"request_id": 1}'), "ValidationError"),
        (("at", "soon", "r", None), "ValueError"),
        (("at", "1"), "KeyError"),
        (("at", "1", "r", "too many"), "cannot be stored"),
    ],
)
async def test_what_is_no_record_is_put_aside_and_blocks_nothing(
    stores: Stores,
    drain: Drain,
    fields: tuple[str | None, ...],
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sound = msgspec.json.encode(record_of(BOB, RESERVED)).decode()
    refused = msgspec.json.encode(record_of(BOB, RESERVED._replace(nano_usd=2**63))).decode()
    given = [{None: sound, "too many": refused}.get(field, field) for field in fields]
    await append(stores, record_of(BOB, RESERVED, request_id="before"))
    await stores.state.call("XADD", stream_key(BOB.shard), "*", *given)
    await append(stores, record_of(BOB, RESERVED, request_id="after"))

    await drain.move_all()

    assert await stores.request_ids() == ["after", "before"]
    assert await stores.waiting() == 0
    [dead] = await stores.dead(BOB.shard)
    assert fault in dead[b"fault"].decode()
    assert dead[b"at"].decode() == given[1]
    assert any("went to" in message for message in caplog.messages)


async def test_lag_tells_how_much_waits_and_for_how_long(stores: Stores, drain: Drain) -> None:
    assert (await drain.lag()).entries == 0
    seconds, _ = await stores.state.call("TIME")
    old = f"{(int(seconds) - 90) * 1000}-0"
    text = msgspec.json.encode(record_of(BOB, RESERVED))
    await stores.state.call("XADD", stream_key(3), old, "at", 1, "r", text)
    await append(stores, record_of(BOB, RESERVED))

    lag = await drain.lag()

    assert lag.entries == 2
    assert 89 <= lag.oldest_seconds <= 90 + PATIENCE_SECONDS
