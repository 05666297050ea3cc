"""What the state store counts of each scope, as sums of records and of leases."""

from __future__ import annotations

import operator
from typing import NamedTuple

import msgspec

from gateway.accounts import key_scope, team_scope
from gateway.ledger import Record


class Counts(NamedTuple):
    """What a scope used: money in one month, all else on one day."""

    requests: int = 0
    tokens: int = 0
    images: int = 0
    characters: int = 0
    audio_ms: int = 0
    nano_usd: int = 0

    @classmethod
    def of(cls, record: Record) -> Counts:
        """Return what one request adds, as the book adds it up."""
        return cls(1, *record.amounts)

    def plus(self, other: Counts) -> Counts:
        """Return the sums."""
        return Counts(*map(operator.add, self, other))

    def minus(self, other: Counts) -> Counts:
        """Return the differences."""
        return Counts(*map(operator.sub, self, other))

    def within(self, *, day: bool, month: bool) -> Counts:
        """Return this without what is not of the day, or not of the month, in question."""
        kept = (*(day for _ in self[:-1]), month)
        return Counts(*map(operator.mul, self, kept))


class Lease(msgspec.Struct):
    """What a request under way holds in each of its scopes, `reserved` without the request."""

    day: int
    month: int
    scopes: list[str]
    reserved: tuple[int, int, int, int, int]

    def counts(self, *, day: int, month: int) -> Counts:
        """Return what it holds of this day and this month."""
        return Counts(1, *self.reserved).within(day=self.day == day, month=self.month == month)


parse_lease = msgspec.json.Decoder(Lease).decode


def scopes_of(record: Record) -> tuple[str, ...]:
    """Return the scopes on which a record counts."""
    key = key_scope(record.key_id)
    return (key,) if record.team is None else (key, team_scope(record.team))
