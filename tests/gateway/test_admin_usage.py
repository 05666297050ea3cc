"""The usage report over HTTP: its rows, and its length."""

from __future__ import annotations

import asyncio
import csv
import io
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from gateway.book import BookUnavailable, Row, UsageFilter
from tests.gateway.admin_app import ADMIN_KEY, HEADERS, Admin, administered, entry, fill
from tests.gateway.running import connected, envelope, serving
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

KEY_HEADER = f"authorization: Bearer {ADMIN_KEY}".encode()


@pytest.fixture
async def admin(tmp_path: Path, empty_file: Path) -> AsyncIterator[Admin]:
    shutil.copy(empty_file, tmp_path)
    async with administered(tmp_path) as made:
        yield made


async def test_usage_shows_every_record(admin: Admin) -> None:
    await admin.book.add_entries([entry(2, team="red", finish="stop"), entry(1, nano_usd=1)])
    answer = await admin.ask("GET", "/usage")
    assert answer.headers["content-type"] == "application/json"
    first, second = answer.json()["data"]
    assert (first["request_id"], first["at"]) == ("r0000001", "2026-01-01T12:00:01.000Z")
    assert (first["usd"], first["nano_usd"], first["team"]) == ("0.000000001", 1, None)
    assert (second["team"], second["finish"], second["cached"]) == ("red", "stop", False)


async def test_usage_as_csv_has_the_same_columns(admin: Admin) -> None:
    await admin.book.add_entries([entry(1, finish='a "b",\nc')])
    answer = await admin.ask("GET", "/usage?format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    record = (await admin.ask("GET", "/usage")).json()["data"][0]
    assert list(rows[0]) == list(record)
    assert (rows[0]["finish"], rows[0]["cached"], rows[0]["team"]) == ('a "b",\nc', "false", "")


async def test_usage_is_summed_by_what_is_asked(admin: Admin) -> None:
    day = 86_400
    entries = [entry(number, model=f"m{number % 2}") for number in (0, 1, 2, day, day + 1)]
    await admin.book.add_entries(entries)
    sums = (await admin.ask("GET", "/usage?by=model,day")).json()["data"]
    assert [(one["model"], one["day"], one["requests"], one["nano_usd"]) for one in sums] == [
        ("m0", "2026-01-01", 2, 2_000),
        ("m0", "2026-01-02", 1, 1_000),
        ("m1", "2026-01-01", 1, 1_000),
        ("m1", "2026-01-02", 1, 1_000),
    ]
    assert "request_id" not in sums[0]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("team=red", [2]),
        ("model=hf/model", [3]),
        ("model=alias-hf", [3]),
        ("model=gone", []),
        ("since=2026-01-01T12:00:02Z", [2, 3]),
        ("until=2026-01-01T12:00:02Z", [1]),
        ("since=2026-01-01&until=2026-01-01T12:00:03", [1, 2]),
        ("since=1h", []),
        ("until=2990-01-01", [1, 2, 3]),
    ],
)
async def test_usage_is_filtered(admin: Admin, query: str, numbers: list[int]) -> None:
    await admin.ask("POST", "/teams", json={"name": "red"})
    key_id = (await admin.new_key())["id"]
    made = [entry(1, key_id=key_id), entry(2, team="red"), entry(3, model="hf/model")]
    await admin.book.add_entries(made)
    found = (await admin.ask("GET", f"/usage?{query}")).json()["data"]
    assert [one["request_id"] for one in found] == [f"r{number:07}" for number in numbers]
    of_key = (await admin.ask("GET", f"/usage?key={key_id}")).json()["data"]
    assert [one["request_id"] for one in of_key] == ["r0000001"]


@pytest.mark.parametrize("form", ["json", "csv"])
async def test_an_empty_ledger_is_an_empty_list(admin: Admin, form: str) -> None:
    answer = await admin.ask("GET", f"/usage?format={form}")
    if form == "json":
        assert answer.json() == {"object": "list", "data": []}
    else:
        assert answer.text.startswith("at,request_id,key,")
        assert answer.text.count("\n") == 1


def highest_memory_kib() -> int:
    """Return the most memory that this process had since `forget_highest_memory`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def forget_highest_memory() -> None:
    """Count the most memory from now on (proc(5), `clear_refs`)."""
    Path("/proc/self/clear_refs").write_text("5")


async def test_a_long_report_is_sent_in_bounded_memory(admin: Admin, tmp_path: Path) -> None:
    rows = 100_000
    await fill(admin.book, tmp_path, rows)
    size = lines = 0
    async with serving(admin.app) as port, httpx.AsyncClient(headers=HEADERS) as client:
        url = f"http://127.0.0.1:{port}/admin/usage"
        async with client.stream("GET", url) as answer:
            async for part in answer.aiter_raw():
                if not size:
                    forget_highest_memory()
                    before = highest_memory_kib()
                size += len(part)
                lines += part.count(b"\n")

    assert answer.status_code == 200
    assert lines == rows + 1
    assert highest_memory_kib() - before < size / 1024 / 3


async def test_a_client_that_leaves_ends_the_reading(admin: Admin) -> None:
    await admin.book.add_entries([entry(0)])
    ended = asyncio.Event()
    usage_rows = admin.book.usage_rows

    async def endless(which: UsageFilter) -> AsyncIterator[list[Row]]:
        try:
            while True:
                async for batch in usage_rows(which):
                    yield batch
        finally:
            ended.set()

    admin.book.usage_rows = endless  # type: ignore[method-assign]
    async with serving(admin.app) as port, connected(port) as wire:
        await wire.send(b"GET /admin/usage HTTP/1.1\r\nhost: gateway\r\n%b\r\n\r\n" % KEY_HEADER)
        await wire.read_until(b"r0000000")
        assert not ended.is_set()
        await wire.aclose()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ended.wait()


def breaking(admin: Admin, *, after: int) -> Callable[[UsageFilter], AsyncIterator[list[Row]]]:
    """Return a reading of the ledger that fails after so many batches."""
    usage_rows = admin.book.usage_rows

    async def read(which: UsageFilter) -> AsyncIterator[list[Row]]:
        for _ in range(after):
            async for batch in usage_rows(which):
                yield batch
        raise BookUnavailable("gone")

    return read


async def test_a_book_that_does_not_answer_is_a_503(admin: Admin) -> None:
    admin.book.usage_rows = breaking(admin, after=0)  # type: ignore[method-assign]
    answer = await admin.ask("GET", "/usage")
    assert answer.status_code == 503
    assert envelope(answer.content)["code"] == "book_unavailable"


async def test_a_report_that_breaks_off_does_not_end_as_a_whole_one(admin: Admin) -> None:
    await admin.book.add_entries([entry(1)])
    admin.book.usage_rows = breaking(admin, after=2)  # type: ignore[method-assign]
    async with serving(admin.app) as port, httpx.AsyncClient(headers=HEADERS) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            await client.get(f"http://127.0.0.1:{port}/admin/usage")
