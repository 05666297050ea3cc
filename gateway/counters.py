"""The counters in the state store as a whole: told from the book where they are lost.

A shard's counters are known while it has its `ready` key. Where that is missing, because the store
is new, was wiped or was replaced, no script touches the shard. So nothing changes there while its
counters are counted: what the book has, and what leases that survived still hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gateway.accounts import SHARDS, shard_keys, use_key
from gateway.book import Book, UsageFilter
from gateway.counts import Counts, parse_lease
from gateway.drain import Drain
from gateway.ledger import DAY_MS, day_of, first_day_of, month_of
from gateway.quotas import script
from gateway.store import Store

REBUILD, FORGET = map(script, ("rebuild", "forget"))
_SCOPES_AT_ONCE = 500
_SHARDS_AT_ONCE = 8  # bounds the memory that many scopes take


async def missing(state: Store) -> list[int]:
    """Return the shards whose counters are not known. Raises StoreError if none can be asked.

    Those of a cluster's server that does not answer may be known: they are left out.
    """
    asking = (state.call("EXISTS", shard_keys(shard)[0]) for shard in range(SHARDS))
    ready = await asyncio.gather(*asking, return_exceptions=True)
    errors = [known for known in ready if isinstance(known, BaseException)]
    if len(errors) == SHARDS:
        raise errors[0]
    return [shard for shard, known in enumerate(ready) if known == 0]


async def rebuild(state: Store, book: Book, *, shards: Sequence[int]) -> None:
    """Count shards anew that are `missing`. Raises StoreError, BookUnavailable."""
    await Drain(state, book).move_all(shards)
    now_seconds, _ = await state.call("TIME")
    now_ms = int(now_seconds) * 1000
    day, month = day_of(now_ms), month_of(now_ms)
    is_blank = await _is_blank(book, month)
    for start in range(0, len(shards), _SHARDS_AT_ONCE):
        some = shards[start : start + _SHARDS_AT_ONCE]
        used = {
            shard: {} if is_blank else await book_counts(book, day=day, month=month, shard=shard)
            for shard in some
        }
        await asyncio.gather(
            *(_set_counters(state, shard, used[shard], day=day, month=month) for shard in some)
        )


async def forget(state: Store) -> None:
    """Let whoever writes the ledger count all shards anew. Raises StoreError.

    Until that is done, requests are admitted as they are without a state store.
    """
    for shard, scopes in enumerate(await scopes_by_shard(state)):
        await state.run(FORGET, keys_of(shard, scopes), ())


async def scopes_by_shard(state: Store) -> list[set[str]]:
    """Return the scopes that have counters, for each shard. Raises StoreError."""
    found: list[set[str]] = [set() for _ in range(SHARDS)]
    async for keys in state.scan("use:{q*"):
        for key in keys:
            _, tag, scope = key.decode().split(":", 2)
            found[int(tag[2:-1])].add(scope)
    return found


async def book_counts(
    book: Book,
    *,
    day: int,
    month: int,
    shard: int | None = None,
    upto: Mapping[int, int] | None = None,
) -> dict[str, Counts]:
    """Return what the book has for each scope, as `Book.totals`. Raises BookUnavailable."""
    batches = book.totals(day=day, month=month, shard=shard, upto=upto)
    return {total.scope: Counts(*total[1:]) async for totals in batches for total in totals}


def keys_of(shard: int, scopes: Iterable[str]) -> tuple[str, ...]:
    """Return the store's keys of a shard and of the counters of some of its scopes."""
    return (*shard_keys(shard), *(use_key(shard, scope) for scope in scopes))


async def _is_blank(book: Book, month: int) -> bool:
    """Tell whether no request was recorded this month: asking that once saves much at a start."""
    since_ms = first_day_of(month) * DAY_MS
    return await anext(book.usage_rows(UsageFilter(since_ms=since_ms)), None) is None


async def _set_counters(
    state: Store, shard: int, used: dict[str, Counts], *, day: int, month: int
) -> None:
    """Set the counters of a shard to `used` and what its leases hold."""
    for text in await state.call("HVALS", shard_keys(shard)[1]):
        lease = parse_lease(text)
        for scope in lease.scopes:
            used[scope] = used.get(scope, Counts()).plus(lease.counts(day=day, month=month))
    for scopes, is_last in _chunks(sorted(used)):
        amounts = (amount for scope in scopes for amount in used[scope])
        await state.run(REBUILD, keys_of(shard, scopes), (day, month, int(is_last), *amounts))


def _chunks(scopes: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Yield at least one chunk, and with each whether it is the last."""
    for start in range(0, max(len(scopes), 1), _SCOPES_AT_ONCE):
        end = start + _SCOPES_AT_ONCE
        yield scopes[start:end], end >= len(scopes)
