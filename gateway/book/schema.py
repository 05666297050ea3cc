"""The tables, as the newest migration leaves them. Times are whole Unix seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
)

from gateway.limits import Limits

VERSION = "0002"
"""The newest migration."""


class Json(TypeDecorator[Any]):
    """Any JSON value as text: both databases keep it as it was written."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class LimitsText(TypeDecorator[Limits]):
    """The limits that are set, as a JSON object."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Limits | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(plain_limits(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Limits | None:
        return None if value is None else _limits(json.loads(value))


def plain_limits(limits: Limits) -> dict[str, int | str]:
    """Return the limits that are set, as JSON has them."""
    # Money as text: a JSON number would come back as a float.
    return {
        name: str(value) if isinstance(value, Decimal) else value
        for name, value in limits.given().items()
    }


def _limits(plain: Mapping[str, Any]) -> Limits:
    values = dict(plain)
    if "usd_per_month" in values:
        values["usd_per_month"] = Decimal(values["usd_per_month"])
    return Limits(**values)


# Compared byte by byte, as SQLite does: a language's order costs more, is not the same everywhere,
# and an index in it breaks when the system's C library changes the order.
_Name = Text().with_variant(Text(collation="C"), "postgresql")
_Serial = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers by INTEGER only

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("team", Text),
    Column("models", Json),
    Column("limits", LimitsText, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("number", BigInteger, nullable=False, server_default="0"),
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Index("keys_by_age", "number"),
    Index("keys_by_team", "team", "number"),
    Index("keys_by_revision", "revision"),
)
"""`number` is the order in which keys were made: the revision that made them."""

digests = Table(
    "digests",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("expires_at", BigInteger),
    Index("digests_by_key", "key_id"),
)

teams = Table(
    "teams",
    metadata,
    Column("name", Text, primary_key=True),
    Column("limits", LimitsText, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Index("teams_by_revision", "revision"),
)

revision = Table("revision", metadata, Column("value", BigInteger, nullable=False))

audit = Table(
    "audit",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("before", Json),
    Column("after", Json),
    Index("audit_by_subject", "subject", "id"),
)

settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("request_id", _Name, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("day", Integer, nullable=False),
    Column("shard", SmallInteger, nullable=False),
    Column("entry", BigInteger, nullable=False),
    Column("key_id", _Name, nullable=False),
    Column("team", _Name),
    Column("model", _Name, nullable=False),
    Column("target", _Name, nullable=False),
    Column("upstream", _Name, nullable=False),
    Column("task", _Name, nullable=False),
    Column("status", _Name, nullable=False),
    Column("finish", _Name),
    Column("cached", Boolean, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("images", Integer, nullable=False),
    Column("characters", BigInteger, nullable=False),
    Column("audio_ms", BigInteger, nullable=False),
    Column("nano_usd", BigInteger, nullable=False),
    Column("total_ms", BigInteger, nullable=False),
    Column("upstream_ms", BigInteger, nullable=False),
    Column("first_token_ms", BigInteger),
    Column("retries", Integer, nullable=False),
    Column("client", _Name),
    Index("ledger_by_key", "key_id", "at_ms"),
    Index("ledger_by_team", "team", "at_ms"),
    Index("ledger_by_time", "at_ms"),
    Index("ledger_by_shard", "shard", "at_ms"),
)
"""What requests used. `at_ms` and `day` count from 1970 (UTC), money is in nano-USD."""
