"""Bringing a book's schema up to date when it is opened."""

from __future__ import annotations

from collections.abc import Set

from sqlalchemy import Connection, inspect, text

from gateway.book.connection import transaction
from gateway.book.errors import UnsupportedBook
from gateway.book.schema import VERSION

_BEFORE_ALEMBIC = "0001"
_KNOWN: Set[str] = frozenset({_BEFORE_ALEMBIC, VERSION})
_LOCK = 0x647261676F6D616E  # any number that no other program chooses: "dragoman"


def migrate(db: Connection) -> None:
    """Create the tables, or bring older ones up to date: all of it or nothing.

    Several processes may do so at once. Raises UnsupportedBook for a version of the future.
    """
    if stored_version(db) == VERSION:
        return
    with transaction(db):
        if db.dialect.name == "postgresql":
            db.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        # Read again: another process may have done the work while this one waited for the lock.
        version = stored_version(db)
        if version != VERSION:
            _upgrade(db, from_legacy=version is not None and not _has_alembic(db))


def stored_version(db: Connection) -> str | None:
    """Return the version of the schema, None where there is none yet. Raises UnsupportedBook."""
    if _has_alembic(db):
        version, known = str(db.scalar(text("SELECT version_num FROM alembic_version"))), _KNOWN
    elif number := _user_version(db):
        version, known = f"{number:04}", {_BEFORE_ALEMBIC}
    else:
        return None
    if version not in known:
        raise UnsupportedBook(
            f"the book has schema {version}, written by a newer version; "
            f"this one knows up to {VERSION}"
        )
    return version


def _has_alembic(db: Connection) -> bool:
    return inspect(db).has_table("alembic_version")


def _user_version(db: Connection) -> int:
    """Return where SQLite's books had their version before Alembic."""
    if db.dialect.name != "sqlite":
        return 0
    number: int = db.exec_driver_sql("PRAGMA user_version").scalar_one()
    return number


def _upgrade(db: Connection, *, from_legacy: bool) -> None:
    # Here, as it takes a tenth of a second that only the first start needs.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "gateway.book:migrations")
    config.attributes["connection"] = db
    if from_legacy:
        command.stamp(config, _BEFORE_ALEMBIC)
    command.upgrade(config, VERSION)
