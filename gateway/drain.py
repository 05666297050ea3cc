"""The way of the ledger's records from the state store's streams into the book.

A record stays in its stream until the book has it, and the book takes each request once. So
whoever drains may be killed between any two steps, and several may drain at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.accounts import SHARDS
from gateway.book import BadEntries, Book
from gateway.ledger_stream import PAGE, Item, dead_key, oldest, stream_key
from gateway.store import Store

logger = logging.getLogger(__name__)

_TRANSACTION = 2000  # records; a commit costs as much as a few hundred of them


@dataclass(frozen=True, slots=True)
class Lag:
    """What waits in the streams: how much, and for how long the oldest of it."""

    entries: int
    oldest_seconds: float


class Drain:
    """Moves records from the streams to the book."""

    def __init__(self, state: Store, book: Book) -> None:
        """Close neither before the last call is done."""
        self._state = state
        self._book = book

    async def move(self, shards: Sequence[int] = range(SHARDS)) -> int:
        """Move up to `PAGE` records of each shard; return how many the fullest one had.

        What is no record, or what the book refuses, goes to its shard's `dead` stream, once the
        others are safe. Raises StoreError and BookUnavailable; then the rest is where it was.
        Of a cluster's server that does not answer, that is told once the others' are moved.
        """
        found = await asyncio.gather(
            *(oldest(self._state, shard) for shard in shards), return_exceptions=True
        )
        pages = [page for page in found if not isinstance(page, BaseException)]
        items = [item for page in pages for item in page]
        dead = [item for item in items if item.entry is None]
        records = [item for item in items if item.entry is not None]
        for start in range(0, len(records), _TRANSACTION):
            dead += await self._insert(records[start : start + _TRANSACTION])
        for item in dead:
            await self._bury(item)
        for error in found:
            if isinstance(error, BaseException):
                raise error
        return max(map(len, pages), default=0)

    async def move_all(self, shards: Sequence[int] = range(SHARDS)) -> None:
        """Move until no more waits than what came in the meantime. Raises as `move` does."""
        while await self.move(shards) == PAGE:
            pass

    async def lag(self) -> Lag:
        """Return what waits. Raises StoreError."""
        keys = [stream_key(shard) for shard in range(SHARDS)]
        lengths = await asyncio.gather(*(self._state.call("XLEN", key) for key in keys))
        waiting = [key for key, length in zip(keys, lengths, strict=True) if length]
        now, *firsts = await asyncio.gather(
            self._state.call("TIME"),
            *(self._state.call("XRANGE", key, "-", "+", "COUNT", 1) for key in waiting),
        )
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        since_ms = [int(page[0][0].partition(b"-")[0]) for page in firsts if page]
        return Lag(sum(lengths), (now_ms - min(since_ms, default=now_ms)) / 1000)

    async def _insert(self, items: list[Item]) -> list[Item]:
        """Put records into the book and out of the streams; return those that the book refuses."""
        try:
            await self._book.add_entries([item.entry for item in items if item.entry])
        except BadEntries as error:
            bad = set(error.indexes)
            refused = [items[index]._replace(fault=str(error)) for index in bad]
            others = [item for index, item in enumerate(items) if index not in bad]
            return refused + await self._insert(others)
        await self._delete(items)
        return []

    async def _delete(self, items: list[Item]) -> None:
        ids: dict[int, list[bytes]] = {}
        for item in items:
            ids.setdefault(item.shard, []).append(item.id)
        await asyncio.gather(
            *(self._state.call("XDEL", stream_key(shard), *some) for shard, some in ids.items())
        )

    async def _bury(self, item: Item) -> None:
        """Move an item to where the operator finds it. Killed in between, it is there twice."""
        key, id_ = dead_key(item.shard), item.id.decode()
        logger.error("%s in %r went to %r: %s", id_, stream_key(item.shard), key, item.fault)
        await self._state.call("XADD", key, "*", "id", id_, "fault", item.fault, *item.fields)
        await self._delete([item])
