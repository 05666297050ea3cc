"""The ledger's stream of one shard in the state store, read a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import msgspec

from gateway.accounts import shard_keys, tag
from gateway.ledger import Entry, Record, entry_number
from gateway.store import Store

PAGE = 500
_parse_record = msgspec.json.Decoder(Record).decode


class Item(NamedTuple):
    """What a stream holds under `id`. `entry` is None if it is no entry: `fault` tells why."""

    shard: int
    id: bytes
    fields: tuple[bytes, ...]
    entry: Entry | None
    fault: str = ""


def stream_key(shard: int) -> str:
    """Return the store's key of the stream."""
    *_, ledger = shard_keys(shard)
    return ledger


def dead_key(shard: int) -> str:
    """Return the store's key of the stream of what is no entry."""
    return f"dead:{tag(shard)}"


async def oldest(state: Store, shard: int) -> list[Item]:
    """Return the oldest `PAGE` items, oldest first. Raises StoreError."""
    reply = await state.call("XRANGE", stream_key(shard), "-", "+", "COUNT", PAGE)
    return [_item(shard, id_, fields) for id_, fields in reply]


async def newest_first(state: Store, shard: int, *, last: str) -> AsyncIterator[Item]:
    """Yield the items up to the id `last`. Raises StoreError."""
    while True:
        reply = await state.call("XREVRANGE", stream_key(shard), last, "-", "COUNT", PAGE)
        for id_, fields in reply:
            yield _item(shard, id_, fields)
        if len(reply) < PAGE:
            return
        last = f"({reply[-1][0].decode()}"


def _item(shard: int, id_: bytes, fields: list[bytes]) -> Item:
    try:
        entry = _entry(shard, id_, dict(zip(fields[::2], fields[1::2], strict=True)))
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        return Item(shard, id_, tuple(fields), None, f"{type(error).__name__}: {error}")
    return Item(shard, id_, tuple(fields), entry)


def _entry(shard: int, id_: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    return Entry(
        at_ms=int(fields[b"at"]),
        shard=shard,
        entry=entry_number(id_.decode()),
        record=_parse_record(fields[b"r"]),
        replaces=b"replaces" in fields,
    )
