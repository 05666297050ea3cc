"""The proof that counters and ledger agree: for every scope, today and this month,

    counter - what live leases hold = records in the book + records on their way to it

A shard's counters and leases are read at one instant, together with how far its stream had come.
What comes later does not count, so the gateway may go on working.
"""

from __future__ import annotations

import asyncio
from collections import ChainMap, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway import counters, embedded
from gateway.accounts import SHARDS
from gateway.book import Book
from gateway.config import Settings
from gateway.counters import book_counts, keys_of, scopes_by_shard
from gateway.counts import Counts, parse_lease, scopes_of
from gateway.drain import Drain
from gateway.embedded import DataDirectoryInUse
from gateway.ledger import Entry, day_of, entry_number, month_of
from gateway.ledger_stream import newest_first
from gateway.quotas import script
from gateway.store import Store

_SNAPSHOT = script("snapshot")
_STATE_SECONDS = 10.0
_SHARDS_AT_ONCE = 8  # bounds the memory that many scopes take
_LOOKS = 5
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Difference:
    """What a scope's counter says, without live leases, and what the ledger adds up to."""

    scope: str
    meter: str
    counter: int
    ledger: int


async def reconcile(settings: Settings, data_dir: Path, book: Book) -> list[Difference]:
    """Return where counters and ledger differ, after records on their way were moved to the book.

    It also works while no gateway runs. Raises StoreError, BookUnavailable and EmbeddedError.
    """
    async with _state_of(settings, data_dir) as state:
        await _catch_up(state, book)
        return await differences(state, book)


async def rebuild(settings: Settings, data_dir: Path, book: Book) -> None:
    """Count all counters anew from the book; requests under way keep what they hold.

    For a moment requests are admitted as they are without a state store. Raises as `reconcile`.
    """
    async with _state_of(settings, data_dir) as state:
        await counters.forget(state)
        await _catch_up(state, book)


async def differences(state: Store, book: Book) -> list[Difference]:
    """Return where counters and ledger differ, by scope. Raises StoreError and BookUnavailable.

    What differs is looked at again, five times in all: a look does not see a scope that came into
    being meanwhile, sees twice, or not at all, a record that another one replaces just then, and
    may fall on midnight.
    """
    found = await _look(state, book)
    for _ in range(_LOOKS - 1):
        if not found:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
        again = await _look(state, book)
        found = {place: values for place, values in again.items() if place in found}
    return [Difference(*place, *values) for place, values in sorted(found.items())]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What a shard's scopes had used at one instant, without leases.

    `last` is the id of the newest record that the stream had ever had by then, None if none.
    """

    shard: int
    now_ms: int
    last: str | None
    used: Mapping[str, Counts]


async def _look(state: Store, book: Book) -> dict[tuple[str, str], tuple[int, int]]:
    """Return counters that are not what the ledger adds up to, by scope and meter, and both."""
    scopes = await scopes_by_shard(state)
    found = {}
    for start in range(0, SHARDS, _SHARDS_AT_ONCE):
        shards = range(start, start + _SHARDS_AT_ONCE)
        snapshots = await asyncio.gather(
            *(_take_snapshot(state, shard, sorted(scopes[shard])) for shard in shards)
        )
        used = ChainMap(*(dict(snapshot.used) for snapshot in snapshots))
        ledger = await _add_up(state, book, snapshots)
        for scope in used.keys() | ledger.keys():
            pair = used.get(scope, Counts()), ledger.get(scope, Counts())
            for meter, counter, total in zip(Counts._fields, *pair, strict=True):
                if counter != total:
                    found[scope, meter] = counter, total
    return found


async def _take_snapshot(state: Store, shard: int, scopes: Sequence[str]) -> _Snapshot:
    now, last, leases, counted = await state.run(_SNAPSHOT, keys_of(shard, scopes), ())
    day, month = day_of(int(now)), month_of(int(now))
    used: dict[str, Counts] = defaultdict(Counts)
    for scope, (of_day, *daily, of_month, monthly) in zip(scopes, counted, strict=True):
        amounts = Counts(*(int(amount or 0) for amount in (*daily, monthly)))
        used[scope] = amounts.within(day=int(of_day or 0) == day, month=int(of_month or 0) == month)
    for lease in map(parse_lease, leases):
        for scope in lease.scopes:
            used[scope] = used[scope].minus(lease.counts(day=day, month=month))
    return _Snapshot(shard, int(now), last.decode() or None, used)


async def _add_up(state: Store, book: Book, snapshots: Sequence[_Snapshot]) -> Mapping[str, Counts]:
    """Return what the ledger has for each scope of some shards, up to their snapshots."""
    waiting: list[Entry] = []
    upto = {}
    for snapshot in snapshots:
        entries = await _waiting(state, snapshot)
        upto[snapshot.shard] = _last_in_book(snapshot, entries)
        waiting += entries
    day, month = day_of(snapshots[0].now_ms), month_of(snapshots[0].now_ms)
    totals = defaultdict(Counts, await book_counts(book, day=day, month=month, upto=upto))
    for entry in _final(waiting):
        amounts = Counts.of(entry.record).within(
            day=day_of(entry.at_ms) == day, month=month_of(entry.at_ms) == month
        )
        for scope in scopes_of(entry.record):
            totals[scope] = totals[scope].plus(amounts)
    return totals


async def _waiting(state: Store, snapshot: _Snapshot) -> list[Entry]:
    """Return what was in the stream by then and still is, oldest first."""
    if snapshot.last is None:
        return []
    items = newest_first(state, snapshot.shard, last=snapshot.last)
    return [item.entry async for item in items if item.entry][::-1]


def _last_in_book(snapshot: _Snapshot, waiting: Sequence[Entry]) -> int:
    """Return up to which entry the book's records count."""
    if waiting:  # Records leave the stream in their order: what came before these is in the book.
        return waiting[0].entry - 1
    if snapshot.last is None:  # It may begin in this very millisecond, after the snapshot.
        return entry_number(f"{snapshot.now_ms}-0") - 1
    return entry_number(snapshot.last)


def _final(entries: Iterable[Entry]) -> Iterable[Entry]:
    """Return one entry for each request, as the book would have it."""
    kept: dict[str, Entry] = {}
    for entry in entries:
        known = kept.setdefault(entry.record.request_id, entry)
        if entry.replaces and known.record.status == "abandoned":
            kept[entry.record.request_id] = entry
    return kept.values()


async def _catch_up(state: Store, book: Book) -> None:
    """Do what the writer would do next. It matters where none runs."""
    await Drain(state, book).move_all()
    await counters.rebuild(state, book, shards=await counters.missing(state))


@asynccontextmanager
async def _state_of(settings: Settings, data_dir: Path) -> AsyncIterator[Store]:
    """Yield the state store, whose servers are started for now if they are ours and not running."""
    async with AsyncExitStack() as closing:
        url = settings.store.state
        if url is None:
            try:
                pair = await embedded.start(data_dir)
            except DataDirectoryInUse:
                url = embedded.urls(data_dir)[0]
            else:
                closing.push_async_callback(pair.stop)
                url = pair.state_url
        state = Store(url, timeout_seconds=_STATE_SECONDS)
        closing.push_async_callback(state.aclose)
        yield state
