"""Settlements from the spool, made up for once the state store takes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set
from pathlib import Path
from typing import Literal

import msgspec

from gateway import quotas, spool
from gateway.book import Book
from gateway.quotas import Settlement
from gateway.store import Store, StoreRefused, StoreUnavailable

logger = logging.getLogger(__name__)

_AT_ONCE = 100
_FAULTS = frozenset({"ERR", "WRONGTYPE"})
"""What the store answers to a settlement that is wrong. It may refuse a sound one for other
reasons, which pass: its memory is full, a node is moved."""
_Outcome = Literal["settled", "bad", "later"]
_parse = msgspec.json.Decoder(Settlement).decode


async def replay(state: Store, book: Book, folder: Path) -> None:
    """Settle what is in the spool, oldest file first.

    A line leaves its file once it was answered. It may have been settled before, when its answer
    was lost or the process was killed: the store remembers that for minutes, the book for good,
    and what the book has is not sent. A line that cannot be settled goes into a file beside.
    Where the store stops taking those of a shard, as when one server of a cluster is away, the
    other shards' go on. Raises StoreUnavailable if any is left, BookUnavailable and OSError.
    """
    files = spool.read(folder)
    away: set[int] = set()
    while file := await asyncio.to_thread(next, files, None):
        outcomes = await _settle(state, book, file.lines, away)
        await asyncio.to_thread(_tidy, file, outcomes)
    if away:
        raise StoreUnavailable("the state store does not take all settlements from the spool")


async def _settle(
    state: Store, book: Book, lines: tuple[bytes, ...], away: set[int]
) -> list[_Outcome]:
    """Settle lines but those of shards in `away`, where shards that take no more are added."""
    outcomes: list[_Outcome] = []
    for start in range(0, len(lines), _AT_ONCE):
        some = [_parsed(line) for line in lines[start : start + _AT_ONCE]]
        wanted = [one.request_id for one in some if one and one.shard not in away]
        settled = await book.settled_requests(wanted) if wanted else frozenset[str]()
        told = await asyncio.gather(*(_settle_one(state, one, settled, away) for one in some))
        pairs = zip(some, told, strict=True)
        away |= {one.shard for one, outcome in pairs if one and outcome == "later"}
        outcomes += told
    return outcomes


async def _settle_one(
    state: Store, settlement: Settlement | None, settled: Set[str], away: Set[int]
) -> _Outcome:
    if settlement is None:
        return "bad"
    if settlement.shard in away:
        return "later"
    if settlement.request_id in settled:
        return "settled"
    try:
        await quotas.replay(state, settlement)
    except StoreRefused as error:
        return "bad" if error.code in _FAULTS else "later"
    except StoreUnavailable:
        return "later"
    return "settled"


def _parsed(line: bytes) -> Settlement | None:
    try:
        return _parse(line)
    except msgspec.DecodeError:
        return None


def _tidy(file: spool.File, outcomes: list[_Outcome]) -> None:
    bad = [line for line, outcome in zip(file.lines, outcomes, strict=True) if outcome == "bad"]
    left = [line for line, outcome in zip(file.lines, outcomes, strict=True) if outcome == "later"]
    if bad:
        aside = file.set_aside(bad)
        logger.error("%d settlements cannot be used and are now in %r", len(bad), str(aside))
    file.keep(left)
