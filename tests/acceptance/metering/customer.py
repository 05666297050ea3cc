"""A gateway's customers: keys with teams of their own, and all that it has on them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import httpx

from gateway.accounts import Account, shard_keys
from gateway.book import UsageFilter
from gateway.counters import missing
from gateway.drain import Drain
from gateway.keys import parse
from gateway.ledger_stream import stream_key
from gateway.limits import Limits
from gateway.quotas import Standing, look
from gateway.store import StoreRefused
from tests.metered import Metered


@dataclass(frozen=True, slots=True)
class Customer:
    """One key. Nobody else uses its team."""

    metered: Metered
    key: str
    key_id: str
    team: str
    account: Account
    written_before: int

    @classmethod
    async def of(cls, metered: Metered, *, owner: str = "key", **limits: Any) -> Self:
        """Return a new one, the limits its key's or its team's."""
        team = secrets.token_hex(8)
        if owner == "team":
            await metered.book.create_team(team, limits=Limits(**limits), actor="test")
        key = await metered.new_key(team=team, **(limits if owner == "key" else {}))
        key_id = str(parse(key))
        account = Account.of(key_id=key_id, team=team)
        return cls(metered, key, key_id, team, account, await _written(metered, account))

    async def limit(self, owner: str, **limits: Any) -> None:
        """Set more limits for the key or the team."""
        book, changes = self.metered.book, {"limits": limits}
        if owner == "team":
            await book.update_team(self.team, changes, actor="test")
        else:
            await book.update_key(self.key_id, changes, actor="test")

    def client(self) -> httpx.AsyncClient:
        """Return a client that shows the key."""
        return self.metered.client(self.key, verify=False)  # certificates take long to load

    async def used(self) -> list[Standing]:
        """Return what the counters of the key and of the team say, buckets left out."""
        snapshot, _ = await look(self.metered.state, self.account)
        return [one._replace(requests_level=0, tokens_level=0) for one in snapshot.standings]

    async def leases(self) -> int:
        """Return how many of the shard's requests are under way, or not settled."""
        _, leases, *_ = shard_keys(self.account.shard)
        held: int = await self.metered.state.call("HLEN", leases)
        return held

    async def records(self) -> list[Any]:
        """Return all records of the key, once nothing is under way any more."""
        await self.metered.until(self.leases, lambda held: held == 0)
        await Drain(self.metered.state, self.metered.book).move_all([self.account.shard])
        pages = self.metered.book.usage_rows(UsageFilter(key_id=self.key_id))
        return [row async for page in pages for row in page]

    async def written(self) -> int:
        """Return how many records the shard's stream has had since this customer came.

        The book would hide a second one of the same request.
        """
        return await _written(self.metered, self.account) - self.written_before


async def counting(metered: Metered) -> None:
    """Wait until the gateway counts: before, it admits as it does without a store."""
    await metered.until(partial(missing, metered.state), lambda shards: not shards)


async def _written(metered: Metered, account: Account) -> int:
    try:
        told = await metered.state.call("XINFO", "STREAM", stream_key(account.shard))
    except StoreRefused:  # there is no stream before its first record
        return 0
    added: int = dict(zip(told[::2], told[1::2], strict=True))[b"entries-added"]
    return added
