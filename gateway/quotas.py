"""Quotas: what a request may use is reserved before it is sent, and corrected to what it used.

Both steps are one script in the state store each, for all limits of the key and its team, all or
nothing, by the store's clock. A reservation is a lease: whoever holds it prolongs it, and if they
die it ends as a record `abandoned` in the ledger.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.accounts import (
    Account,
    Caps,
    mark_key,
    shard_keys,
)
from gateway.amounts import Amounts
from gateway.ledger import DAY_MS, day_of, first_day_of
from gateway.store import Script, Store, StoreUnavailable

LEASE_MS = 60_000
HEARTBEAT_SECONDS = 20.0

_FOLDER = Path(__file__).parent / "lua"


def script(name: str) -> Script:
    """Return one of the scripts, with what they share before it."""
    parts = (_FOLDER / f"{part}.lua" for part in ("shared", name))
    return Script("\n".join(part.read_text(encoding="utf-8") for part in parts))


RESERVE, SETTLE, EXTEND, RECLAIM, LOOK = map(
    script, ("reserve", "settle", "extend", "reclaim", "look")
)
_CAPS = Caps._fields
_pack = msgspec.json.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Any]).decode


class Standing(NamedTuple):
    """What a scope has used, this request included: its buckets' levels, its day, its month."""

    requests_level: int
    tokens_level: int
    requests: int
    tokens: int
    images: int
    characters: int
    audio_ms: int
    nano_usd: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where an account stood at `now_ms` of the store's clock, one standing for each scope."""

    now_ms: int
    month: int
    standings: tuple[Standing, ...]


class QuotaExceeded(Exception):
    """Nothing was taken. `cap` of `scope` binds longest; None seconds: the request never fits."""

    def __init__(
        self, account: Account, snapshot: Snapshot, *, scope: int, cap: str, wait_ms: int
    ) -> None:
        super().__init__(f"{account.scopes[scope]}: {cap}")
        self.account = account
        self.snapshot = snapshot
        self.scope = account.scopes[scope]
        self.cap = cap
        self.limit: int = getattr(account.caps[scope], cap)
        self.retry_after_seconds = None if wait_ms < 0 else wait_ms / 1000


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """All that it takes to settle one request, now or later. Without a record it never happened."""

    request_id: str
    shard: int
    keys: tuple[str, ...]
    caps: bytes
    at_ms: int
    month: int
    reserved: tuple[int, ...]
    used: tuple[int, ...]
    record: str


async def reserve(
    store: Store,
    account: Account,
    request_id: str,
    *,
    amounts: Amounts,
    charged_if_abandoned: Amounts,
    abandoned_record: bytes,
    lease_ms: int = LEASE_MS,
) -> Snapshot:
    """Take `amounts` out of every budget of the account. Raises QuotaExceeded, StoreError."""
    lease = {
        "scopes": account.scopes,
        "tpm": [caps.tpm for caps in account.caps],
        "reserved": amounts,
        "charged": charged_if_abandoned,
        "record": abandoned_record.decode(),
    }
    arguments = (request_id, lease_ms, account.packed, _pack(lease), *amounts)
    reply = _told(await store.run(RESERVE, account.keys, arguments))
    granted, now_ms, month, scope, cap, wait_ms, *standings = reply
    snapshot = Snapshot(now_ms, month, tuple(Standing(*standing) for standing in standings))
    if granted:
        return snapshot
    name = _CAPS[cap - 1]
    if name == "nano_usd" and wait_ms >= 0:
        wait_ms = first_day_of(month + 1) * DAY_MS - now_ms
    raise QuotaExceeded(account, snapshot, scope=scope - 1, cap=name, wait_ms=wait_ms)


def settle(store: Store, settlement: Settlement) -> Future[Any]:
    """Send a settlement; see `check_settled` for its answer. The same one may be sent again."""
    return store.run(
        SETTLE,
        (*settlement.keys, mark_key(settlement.shard, settlement.request_id)),
        (
            settlement.request_id,
            day_of(settlement.at_ms),
            settlement.month,
            settlement.caps,
            settlement.at_ms,
            *settlement.reserved,
            *settlement.used,
            settlement.record,
        ),
    )


def check_settled(answer: bytes) -> None:
    """Raise StoreUnavailable if a settlement was not taken, because counters are rebuilt now."""
    if answer == b"unready":
        raise StoreUnavailable("the state store's counters are being rebuilt")


def extend(store: Store, shard: int, request_ids: Iterable[str]) -> Future[Any]:
    """Prolong leases of one shard."""
    return store.run(EXTEND, shard_keys(shard), (LEASE_MS, *request_ids))


async def look(store: Store, account: Account) -> tuple[Snapshot, tuple[int, ...]]:
    """Return where an account stands, and how many requests each scope has under way.

    Takes nothing. Raises StoreError.
    """
    now_ms, month, *scopes = _told(await store.run(LOOK, account.keys, (account.packed,)))
    standings = tuple(Standing(*scope[:-1]) for scope in scopes)
    return Snapshot(now_ms, month, standings), tuple(scope[-1] for scope in scopes)


def _told(reply: bytes) -> list[Any]:
    """Return what a script says. Raises StoreUnavailable while it cannot know."""
    told = _unpack(reply)
    if told[0] == "unready":
        raise StoreUnavailable("the state store's counters are being rebuilt")
    return told


async def replay(store: Store, settlement: Settlement) -> None:
    """Settle what could not be settled before. Raises StoreError."""
    check_settled(await settle(store, settlement))
