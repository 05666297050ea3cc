import asyncio
import resource
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, text

from gateway.book import (
    BadEntries,
    Book,
    KeyOptions,
    Row,
    UsageFilter,
    connection,
    usage,
)
from gateway.ledger import DAY_MS, Entry, Record, first_day_of, month_of
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

T = TypeVar("T")
DAY = 20_780  # 2026-11-23
MONTH = 2026 * 12 + 10
ALL = UsageFilter()


def entry(
    request_id: str,
    *,
    day: int = DAY,
    at_ms: int = 0,
    number: int = 1,
    shard: int = 0,
    replaces: bool = False,
    **record: Any,
) -> Entry:
    given = {"key_id": "abc", "model": "m", "target": "t", "upstream": "u", "task": "chat"}
    return Entry(
        at_ms=day * DAY_MS + at_ms,
        shard=shard,
        entry=number,
        replaces=replaces,
        record=Record(request_id=request_id, **{**given, **record}),
    )


async def gathered(batches: AsyncIterator[list[T]]) -> list[T]:
    return [row async for batch in batches for row in batch]


async def rows(book: Book, which: UsageFilter = ALL) -> dict[str, Row]:
    return {row["request_id"]: row for row in await gathered(book.usage_rows(which))}


async def test_row_holds_all_of_the_record(book: Book) -> None:
    full: dict[str, Any] = {
        "key_id": "k",
        "team": "red",
        "model": "gpt",
        "target": "llama",
        "upstream": "hf",
        "task": "transcription",
        "status": "error",
        "finish": "overloaded",
        "cached": True,
        "estimated": True,
        "input_tokens": 1,
        "output_tokens": 2,
        "images": 3,
        "characters": 4,
        "audio_ms": 5,
        "nano_usd": 2**53 + 1,
        "total_ms": 7,
        "upstream_ms": 8,
        "first_token_ms": 9,
        "retries": 10,
        "client": "::1",
    }
    await book.add_entries([entry("full", at_ms=5, **full), entry("bare")])

    found = await rows(book)

    assert found["full"] == {"request_id": "full", "at_ms": DAY * DAY_MS + 5, **full}
    unset = ("team", "finish", "first_token_ms", "client")
    assert [found["bare"][name] for name in unset] == [None] * 4
    assert (found["bare"]["cached"], found["bare"]["status"]) == (False, "ok")


async def test_entry_delivered_again_changes_nothing(book: Book) -> None:
    await book.add_entries([entry("a", nano_usd=1), entry("a", nano_usd=2)])

    await book.add_entries([entry("a", nano_usd=3), entry("b", nano_usd=4)])

    found = await rows(book)
    assert {name: row["nano_usd"] for name, row in found.items()} == {"a": 1, "b": 4}


async def test_only_an_abandoned_row_is_replaced_and_only_by_a_correction(book: Book) -> None:
    await book.add_entries(
        [
            entry("left", status="abandoned", nano_usd=1),
            entry("still", status="abandoned", nano_usd=1),
            entry("settled", nano_usd=1),
        ]
    )

    await book.add_entries(
        [
            entry("left", nano_usd=2, number=9, replaces=True),
            entry("still", nano_usd=2),
            entry("settled", nano_usd=2, replaces=True),
            entry("new", nano_usd=2, replaces=True),
        ]
    )
    await book.add_entries([entry("left", nano_usd=3, replaces=True), entry("new", nano_usd=3)])

    found = await rows(book)
    assert {name: (row["nano_usd"], row["status"]) for name, row in found.items()} == {
        "left": (2, "ok"),
        "still": (1, "abandoned"),
        "settled": (1, "ok"),
        "new": (2, "ok"),
    }


@pytest.mark.parametrize("order", [1, -1])
async def test_correction_wins_over_what_it_corrects_in_the_same_batch(
    book: Book, order: int
) -> None:
    both = [
        entry("a", status="abandoned", nano_usd=1),
        entry("a", nano_usd=2, replaces=True),
        entry("a", nano_usd=2, replaces=True),
    ]

    await book.add_entries(both[::order])

    assert (await rows(book))["a"]["nano_usd"] == 2


async def test_nothing_to_add_is_no_error(book: Book) -> None:
    await book.add_entries([])

    assert await rows(book) == {}


async def test_entries_that_cannot_be_stored_are_named_and_nothing_is_stored(book: Book) -> None:
    entries = [entry(f"r{number}") for number in range(20)]
    entries[3] = entry("surrogate", client="\ud800")
    entries[17] = entry("huge", nano_usd=2**63)

    with pytest.raises(BadEntries) as caught:
        await book.add_entries(entries)
    assert caught.value.indexes == (3, 17)
    assert await rows(book) == {}

    await book.add_entries([one for at, one in enumerate(entries) if at not in (3, 17)])
    assert len(await rows(book)) == 18


async def test_what_postgres_alone_refuses_is_named_too(postgres_url: str) -> None:
    book = await Book.open(postgres_url)

    with pytest.raises(BadEntries, match="1 of the entries") as caught:
        await book.add_entries([entry("a"), entry("b", finish="\x00"), entry("c")])

    assert caught.value.indexes == (1,)
    await book.aclose()


async def test_settled_requests_are_those_with_a_row_that_is_not_abandoned(book: Book) -> None:
    await book.add_entries([entry(f"r{number}") for number in range(700)])
    await book.add_entries([entry("left", status="abandoned")])

    settled = await book.settled_requests(["left", *(f"r{number}" for number in range(100, 1200))])

    assert settled == {f"r{number}" for number in range(100, 700)}
    assert await book.settled_requests([]) == set()


async def test_rows_come_by_time_and_then_by_request(book: Book) -> None:
    order = [("c", 1), ("a", 2), ("b", 2), ("d", 1)]
    await book.add_entries([entry(name, at_ms=at_ms) for name, at_ms in order])

    assert list(await rows(book)) == ["c", "d", "a", "b"]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (UsageFilter(key_id="k1"), "ab"),
        (UsageFilter(team="red"), "bc"),
        (UsageFilter(model="x"), "c"),
        (UsageFilter(since_ms=DAY * DAY_MS + 2), "bc"),
        (UsageFilter(until_ms=DAY * DAY_MS + 2), "a"),
        (UsageFilter(key_id="k1", team="red", since_ms=0), "b"),
    ],
)
async def test_filter_chooses_rows(book: Book, which: UsageFilter, expected: str) -> None:
    await book.add_entries(
        [
            entry("a", at_ms=1, key_id="k1"),
            entry("b", at_ms=2, key_id="k1", team="red"),
            entry("c", at_ms=3, key_id="k2", team="red", model="x"),
        ]
    )

    assert list(await rows(book, which)) == list(expected)
    [[total]] = [batch async for batch in book.usage_by(which, by=())]
    assert total["requests"] == len(expected)


async def test_usage_is_summed_by_group_in_the_order_of_the_groups(book: Book) -> None:
    huge = 2**60
    await book.add_entries(
        [
            entry("a", key_id="k2", input_tokens=1, output_tokens=2, cached=True),
            entry("b", key_id="k1", images=3, nano_usd=huge),
            entry("c", key_id="k1", characters=4, audio_ms=5, nano_usd=huge, estimated=True),
            entry("d", key_id="k1", day=DAY + 1, nano_usd=7),
        ]
    )

    sums = await gathered(book.usage_by(ALL, by=("key", "day")))

    nothing = dict.fromkeys(
        "input_tokens output_tokens images characters audio_ms nano_usd cached estimated".split(), 0
    )
    k1 = {"images": 3, "characters": 4, "audio_ms": 5, "nano_usd": 2 * huge, "estimated": 1}
    k2 = {"input_tokens": 1, "output_tokens": 2, "cached": 1}
    assert sums == [
        {"key": "k1", "day": "2026-11-23", "requests": 2, **nothing, **k1},
        {"key": "k1", "day": "2026-11-24", "requests": 1, **nothing, "nano_usd": 7},
        {"key": "k2", "day": "2026-11-23", "requests": 1, **nothing, **k2},
    ]
    assert all(type(value) in (int, str) for row in sums for value in row.values())


async def test_usage_is_grouped_by_anything_that_was_asked_for(book: Book) -> None:
    await book.add_entries(
        [
            entry("a", team="red", upstream="x", task="chat", model="B", status="ok"),
            entry("b", team=None, upstream="y", task="image", model="a", status="error"),
            entry("c", day=DAY + 30, team="red", upstream="x", model="B"),
        ]
    )

    async def groups(*by: str) -> list[tuple[Any, ...]]:
        sums = await gathered(book.usage_by(ALL, by=by))
        return [tuple(row[name] for name in (*by, "requests")) for row in sums]

    assert await groups("team") == [(None, 1), ("red", 2)]
    assert await groups("model") == [("B", 2), ("a", 1)]
    assert await groups("upstream", "task") == [("x", "chat", 2), ("y", "image", 1)]
    assert await groups("status") == [("error", 1), ("ok", 2)]
    assert await groups("month") == [("2026-11", 2), ("2026-12", 1)]
    assert await groups("month", "key") == [("2026-11", "abc", 2), ("2026-12", "abc", 1)]


async def test_unknown_group_is_named(book: Book) -> None:
    with pytest.raises(ValueError, match="colour"):
        book.usage_by(ALL, by=("key", "colour"))


async def test_sums_of_an_empty_ledger_are_zero(book: Book) -> None:
    [[total]] = [batch async for batch in book.usage_by(ALL, by=())]

    assert set(total.values()) == {0}


async def test_totals_are_what_the_counters_should_say(book: Book) -> None:
    first = first_day_of(MONTH)
    await book.add_entries(
        [
            entry("a", key_id="k1", team="red", input_tokens=1, output_tokens=2, nano_usd=10),
            entry("b", key_id="k1", team="red", task="speech", characters=4, audio_ms=9),
            entry("c", key_id="k2", team="red", task="transcription", audio_ms=5, characters=9),
            entry("d", key_id="k3", day=first, images=3, nano_usd=20),
            entry("e", key_id="k1", team="red", day=first_day_of(MONTH + 1) - 1, nano_usd=40),
            entry("f", key_id="k1", team="red", day=first - 1, nano_usd=80),
            entry("g", key_id="k4", day=first_day_of(MONTH + 1), nano_usd=80),
        ]
    )

    totals = {total.scope: tuple(total)[1:] for total in await all_totals(book)}

    assert month_of(DAY * DAY_MS) == MONTH
    assert totals == {
        "key:k1": (2, 3, 0, 4, 0, 50),
        "key:k2": (1, 0, 0, 0, 5, 0),
        "key:k3": (0, 0, 0, 0, 0, 20),
        "team:red": (3, 3, 0, 4, 5, 50),
    }


async def all_totals(book: Book, **which: Any) -> list[Any]:
    return await gathered(book.totals(day=DAY, month=MONTH, **which))


async def test_totals_of_one_scope_or_one_shard(book: Book) -> None:
    await book.add_entries(
        [
            entry("a", key_id="k1", team="red", shard=3),
            entry("b", key_id="k2", team="red", shard=3),
            entry("c", key_id="k3", shard=63),
        ]
    )

    async def scopes(**which: Any) -> list[tuple[str, int]]:
        return sorted((total.scope, total.d1) for total in await all_totals(book, **which))

    assert await scopes(scope="key:k2") == [("key:k2", 1)]
    assert await scopes(scope="team:red") == [("team:red", 2)]
    assert await scopes(scope="team:k2") == []
    assert await scopes(shard=63) == [("key:k3", 1)]
    assert await scopes(shard=3) == [("key:k1", 1), ("key:k2", 1), ("team:red", 2)]


async def test_totals_up_to_an_entry_of_each_shard(book: Book) -> None:
    big = 1_795_392_000_000 << 20
    await book.add_entries(
        [
            entry("a", key_id="k0", shard=0, number=big),
            entry("b", key_id="k0", shard=0, number=big + 1),
            entry("c", key_id="k1", shard=1, number=big + 2),
            entry("d", key_id="k2", shard=2, number=1),
        ]
    )

    counted = await all_totals(book, upto={0: big, 1: big + 2})

    assert sorted((total.scope, total.d1) for total in counted) == [("key:k0", 1), ("key:k1", 1)]
    assert await all_totals(book, upto={}) == []
    everything = await all_totals(book, upto=dict.fromkeys(range(64), big + 2))
    assert sum(total.d1 for total in everything) == 4


async def fill(book: Book, count: int) -> None:
    """Store `count` rows of one entry each, without the cost of making them here."""
    await book.add_entries([entry("r0")])
    names = "at_ms, day, shard, entry, key_id, team, model, target, upstream, task, status, finish,"
    names += " cached, estimated, input_tokens, output_tokens, images, characters, audio_ms,"
    names += " nano_usd, total_ms, upstream_ms, first_token_ms, retries, client"
    copy = (
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count - 1}) "
        f"INSERT INTO ledger (request_id, {names}) SELECT 'r' || i, {names} FROM ledger, n"
    )
    await book._write(lambda db: db.exec_driver_sql(copy))


async def test_export_of_many_rows_holds_few_of_them_in_memory(book: Book) -> None:
    count = 200_000
    await fill(book, count)
    exported, before, most = 0, resident_bytes(), 0
    async for batch in book.usage_rows(ALL):
        exported += len(batch)
        most = max(most, resident_bytes())

    assert exported == count
    assert most - before < 50_000_000  # all at once are more than 200 MB


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_keys_are_looked_up_while_an_export_is_under_way(book: Book) -> None:
    await book.create_key("abc", b"d", options=KeyOptions(name="alice"))
    await fill(book, 5000)

    async with aclosing(book.usage_rows(ALL)) as batches:
        first = await anext(batches)
        assert await book.find_key(b"d") is not None
        await book.add_entries([entry("new")])
        rest = await gathered(batches)

    assert len(first) + len(rest) == 5000


async def test_reader_that_leaves_early_leaves_no_thread(book: Book) -> None:
    await fill(book, 5000)

    async with aclosing(book.usage_rows(ALL)) as batches:
        await anext(batches)
        [reader] = [one for one in threading.enumerate() if one.name.startswith("book-stream")]

    await asyncio.to_thread(reader.join, PATIENCE_SECONDS)
    assert not reader.is_alive()


async def test_statement_of_a_reader_that_was_cancelled_ends_at_once(book: Book) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    endless = text(f"{numbers} SELECT i FROM n WHERE i <= {connection.BATCH + 1}")
    batches = book._stream(endless, dict)
    assert len(await anext(batches)) == connection.BATCH
    [reader] = [one for one in threading.enumerate() if one.name.startswith("book-stream")]

    reading = asyncio.create_task(anext(batches))
    await asyncio.wait([reading], timeout=0.05)
    reading.cancel()
    await asyncio.wait([reading])

    await asyncio.to_thread(reader.join, PATIENCE_SECONDS)
    assert not reader.is_alive()


async def test_two_writers_of_the_same_rows_do_not_wait_for_each_other_forever(
    book: Book, book_url: str
) -> None:
    other = await Book.open(book_url)
    entries = [entry(f"r{number:03}") for number in range(300)]

    def batches(some: Sequence[Entry]) -> list[Sequence[Entry]]:
        return [some[start : start + 100] for start in range(0, 300, 100)]

    async def write(writer: Book, order: Callable[[Sequence[Entry]], Sequence[Entry]]) -> None:
        for batch in batches(entries):
            await writer.add_entries(order(batch))

    await asyncio.gather(write(book, list), write(other, lambda batch: batch[::-1]))

    assert len(await rows(book)) == 300
    await other.aclose()


@pytest.mark.parametrize(
    "which",
    [
        UsageFilter(key_id="k", since_ms=1),
        UsageFilter(team="red", since_ms=1),
        UsageFilter(since_ms=1, until_ms=2),
    ],
)
async def test_rows_of_a_key_a_team_or_a_time_are_found_by_index(
    book: Book, which: UsageFilter
) -> None:
    await fill(book, 5000)

    def plan(db: Connection) -> str:
        if db.dialect.name == "postgresql":
            db.exec_driver_sql("ANALYZE ledger")
        compiled = usage.rows(which).compile(db, compile_kwargs={"literal_binds": True})  # type: ignore[attr-defined]
        prefix = "EXPLAIN" if db.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        return str(db.exec_driver_sql(f"{prefix} {compiled}").all())

    assert "ledger_by_" in await book._read(plan)
