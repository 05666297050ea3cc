"""Teams, digests that run out, the audit, and the ledger of usage."""

import json
from decimal import Decimal

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MOST = 10**12
_MOST_USD = Decimal(1_000_000)
_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    _create_digests()
    _create_teams()
    _change_keys()
    _lower_limits()
    _create_audit()
    _create_ledger()
    if op.get_bind().dialect.name == "sqlite":
        # Versions before Alembic look only here, and say that a newer one wrote the book.
        op.execute("PRAGMA user_version = 2")


def _create_digests() -> None:
    op.create_table(
        "digests",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
    )
    op.execute("INSERT INTO digests (digest, key_id) SELECT digest, id FROM keys")
    op.create_index("digests_by_key", "digests", ["key_id"])


def _create_teams() -> None:
    op.create_table("revision", sa.Column("value", sa.BigInteger, nullable=False))
    op.create_table(
        "teams",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("limits", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.execute(
        "INSERT INTO teams SELECT team, '{}', '{}', min(created_at), 0 FROM keys "
        "WHERE team IS NOT NULL GROUP BY team"
    )
    op.create_index("teams_by_revision", "teams", ["revision"])


def _change_keys() -> None:
    with op.batch_alter_table("keys") as keys:
        keys.drop_column("digest")
        keys.drop_column("last_used_at")
        keys.add_column(sa.Column("number", sa.BigInteger, nullable=False, server_default="0"))
        keys.add_column(sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"))
    if op.get_bind().dialect.name == "sqlite":  # elsewhere there are no keys yet
        op.execute("UPDATE keys SET number = rowid")
    op.execute("INSERT INTO revision SELECT coalesce(max(number), 0) FROM keys")
    op.create_index("keys_by_age", "keys", ["number"])
    op.create_index("keys_by_team", "keys", ["team", "number"])
    op.create_index("keys_by_revision", "keys", ["revision"])


def _lower_limits() -> None:
    """Bring limits below the bounds that they did not have before."""
    db = op.get_bind()
    for key_id, text in db.execute(sa.text("SELECT id, limits FROM keys")).all():
        limits = json.loads(text)
        lowered = {
            name: str(min(Decimal(value), _MOST_USD))
            if name == "usd_per_month"
            else min(value, _MOST)
            for name, value in limits.items()
        }
        if lowered != limits:
            change = sa.text("UPDATE keys SET limits = :limits WHERE id = :id")
            db.execute(change, {"limits": json.dumps(lowered), "id": key_id})


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
    )
    op.create_index("audit_by_subject", "audit", ["subject", "id"])


def _create_ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("request_id", _NAME, primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("entry", sa.BigInteger, nullable=False),
        sa.Column("key_id", _NAME, nullable=False),
        sa.Column("team", _NAME),
        sa.Column("model", _NAME, nullable=False),
        sa.Column("target", _NAME, nullable=False),
        sa.Column("upstream", _NAME, nullable=False),
        sa.Column("task", _NAME, nullable=False),
        sa.Column("status", _NAME, nullable=False),
        sa.Column("finish", _NAME),
        sa.Column("cached", sa.Boolean, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("characters", sa.BigInteger, nullable=False),
        sa.Column("audio_ms", sa.BigInteger, nullable=False),
        sa.Column("nano_usd", sa.BigInteger, nullable=False),
        sa.Column("total_ms", sa.BigInteger, nullable=False),
        sa.Column("upstream_ms", sa.BigInteger, nullable=False),
        sa.Column("first_token_ms", sa.BigInteger),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("client", _NAME),
    )
    op.create_index("ledger_by_key", "ledger", ["key_id", "at_ms"])
    op.create_index("ledger_by_team", "ledger", ["team", "at_ms"])
    op.create_index("ledger_by_time", "ledger", ["at_ms"])
    op.create_index("ledger_by_shard", "ledger", ["shard", "at_ms"])
