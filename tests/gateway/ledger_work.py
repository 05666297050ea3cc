"""What the tests of the ledger have in common: both stores, records, and requests that use some."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gateway import embedded
from gateway.accounts import DAY_FIELDS, MONTH_FIELD, SHARDS, Account, shard_keys, use_key
from gateway.amounts import Amounts
from gateway.book import Book, UsageFilter
from gateway.edge import uuid7
from gateway.ledger import Record
from gateway.ledger_stream import dead_key, stream_key
from gateway.quotas import Settlement, check_settled, reserve, settle
from gateway.store import Store
from tests.patience import PATIENCE_SECONDS

ALICE = Account.of(key_id="alice", team="red")
BOB = Account.of(key_id="bob")
RESERVED = Amounts(tokens=100, images=3, nano_usd=1_000)
CHARGED = Amounts(tokens=7, nano_usd=70)


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the ledger is on its way from and to."""

    data_dir: Path
    url: str
    state: Store
    book: Book

    @property
    def spool(self) -> Path:
        return self.data_dir / "spool"

    async def make_ready(self) -> None:
        """Let the scripts work, as if the counters had just been counted."""
        for shard in range(SHARDS):
            await self.state.call("SET", shard_keys(shard)[0], "1")

    async def waiting(self) -> int:
        """Return how many records are in the streams."""
        return sum([await self.state.call("XLEN", stream_key(shard)) for shard in range(SHARDS)])

    async def counters(self, shard: int, scope: str) -> list[int]:
        """Return d1..d5 and m1 of a scope."""
        fields = await self.state.call("HMGET", use_key(shard, scope), *DAY_FIELDS, MONTH_FIELD)
        return [int(field or 0) for field in fields]

    async def dead(self, shard: int) -> list[dict[bytes, bytes]]:
        """Return what could not be moved."""
        reply = await self.state.call("XRANGE", dead_key(shard), "-", "+")
        return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in reply]

    async def rows(self) -> list[dict[str, Any]]:
        """Return the book's records."""
        return [row async for rows in self.book.usage_rows(UsageFilter()) for row in rows]

    async def request_ids(self) -> list[str]:
        """Return whose records the book has, in order."""
        return sorted(row["request_id"] for row in await self.rows())


@asynccontextmanager
async def open_stores(data_dir: Path) -> AsyncIterator[Stores]:
    """Yield the embedded state store, which knows no counters yet, and an empty book."""
    pair = await embedded.start(data_dir)
    state = Store(pair.state_url, timeout_seconds=5, probe_seconds=0.01)
    book = await Book.open(data_dir)
    try:
        yield Stores(data_dir, pair.state_url, state, book)
    finally:
        await state.aclose()
        await book.aclose()
        await pair.stop()


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait for what another task or process does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.005)


def record_of(
    account: Account, amounts: Amounts, *, request_id: str = "", status: str = "ok"
) -> Record:
    """Return the record of a request."""
    key, *team = (scope.partition(":")[2] for scope in account.scopes)
    return Record(
        request_id=request_id or uuid7(),
        key_id=key,
        team=team[0] if team else None,
        model="m",
        target="m",
        upstream="u",
        task="chat",
        status=status,  # type: ignore[arg-type]
        input_tokens=amounts.tokens // 2,
        output_tokens=amounts.tokens - amounts.tokens // 2,
        images=amounts.images,
        nano_usd=amounts.nano_usd,
    )


async def append(stores: Stores, record: Record, *, shard: int = BOB.shard, at_ms: int = 0) -> None:
    """Put a record into a stream as it is."""
    text = msgspec.json.encode(record)
    await stores.state.call("XADD", stream_key(shard), "*", "at", at_ms, "r", text)


async def begin(
    stores: Stores, account: Account, *, request_id: str = "", lease_ms: int = 60_000
) -> Settlement:
    """Reserve and return the settlement that is to follow, with twice the tokens."""
    request_id = request_id or uuid7()
    abandoned = record_of(account, CHARGED, request_id=request_id, status="abandoned")
    snapshot = await reserve(
        stores.state,
        account,
        request_id,
        amounts=RESERVED,
        charged_if_abandoned=CHARGED,
        abandoned_record=msgspec.json.encode(abandoned),
        lease_ms=lease_ms,
    )
    used = RESERVED._replace(tokens=RESERVED.tokens * 2)
    return Settlement(
        request_id=request_id,
        shard=account.shard,
        keys=account.keys,
        caps=account.packed,
        at_ms=snapshot.now_ms,
        month=snapshot.month,
        reserved=RESERVED,
        used=used,
        record=msgspec.json.encode(record_of(account, used, request_id=request_id)).decode(),
    )


async def use(stores: Stores, account: Account, *, times: int = 1) -> None:
    """Make requests from beginning to end."""
    for _ in range(times):
        check_settled(await settle(stores.state, await begin(stores, account)))
