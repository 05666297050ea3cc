"""Adding to the ledger: one row for each admitted request, whatever is delivered twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Executable, Text, bindparam, cast, column, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import StatementError

from gateway.book.connection import reason_of, refuses_data, transaction
from gateway.book.errors import BadEntries
from gateway.book.schema import ledger
from gateway.ledger import Entry, day_of

_SETTLED_AT_ONCE = 500  # SQLite takes 999 parameters at least


def add(db: Connection, entries: Sequence[Entry]) -> None:
    """Store all entries or none, in a transaction of its own.

    A request that has a row keeps it, unless that is `abandoned` and the entry `replaces` it.
    Raises BadEntries.
    """
    try:
        with transaction(db):
            _insert(db, entries)
    except (StatementError, ValueError, OverflowError) as error:
        bad = _bad(db, entries, first=0) if refuses_data(error) else []
        if not bad:
            raise
        raise BadEntries(bad, reason_of(error)) from error


def settled(db: Connection, request_ids: Sequence[str]) -> set[str]:
    """Return which of the requests have a row that is not `abandoned`."""
    found: set[str] = set()
    for start in range(0, len(request_ids), _SETTLED_AT_ONCE):
        asked = ledger.c.request_id.in_(request_ids[start : start + _SETTLED_AT_ONCE])
        rows = select(ledger.c.request_id).where(asked, ledger.c.status != "abandoned")
        found.update(db.scalars(rows))
    return found


def _bad(db: Connection, entries: Sequence[Entry], *, first: int) -> list[int]:
    """Return which entries are refused, by halves: most often it is one of many."""
    if not _is_refused(db, entries):
        return []
    if len(entries) == 1:
        return [first]
    half = len(entries) // 2
    return [*_bad(db, entries[:half], first=first), *_bad(db, entries[half:], first=first + half)]


class _Tried(Exception):
    """The entries were not refused; their transaction is to be undone."""


def _is_refused(db: Connection, entries: Sequence[Entry]) -> bool:
    try:
        with transaction(db):
            _insert(db, entries)
            raise _Tried
    except _Tried:
        return False
    except (StatementError, ValueError, OverflowError) as error:
        if refuses_data(error):
            return True
        raise


def _insert(db: Connection, entries: Sequence[Entry]) -> None:
    # In one order, so that two writers of the same rows never wait for each other.
    ordered = sorted(entries, key=lambda entry: entry.record.request_id)
    plain = [_row(entry) for entry in ordered if not entry.replaces]
    # The last of several for one request: PostgreSQL changes no row twice in one statement.
    replacing = {entry.record.request_id: _row(entry) for entry in ordered if entry.replaces}
    for rows, replaces in ((plain, False), (list(replacing.values()), True)):
        if not rows:
            continue
        if db.dialect.name == "postgresql":
            # One parameter: pg8000 looks at each character of a statement, and asks the server
            # three times for each row of `executemany`.
            text = msgspec.json.encode(rows).decode()
            db.execute(_postgres_insert(replaces=replaces), {"rows": text})
        else:
            db.execute(_sqlite_insert(replaces=replaces), rows)


def _row(entry: Entry) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(entry.record),
        "at_ms": entry.at_ms,
        "day": day_of(entry.at_ms),
        "shard": entry.shard,
        "entry": entry.entry,
    }


def _sqlite_insert(*, replaces: bool) -> Executable:
    return _on_conflict(sqlite.insert(ledger), replaces=replaces)


def _postgres_insert(*, replaces: bool) -> Executable:
    # Here, as the dialect costs a thirtieth of a second and 2 MB.
    from sqlalchemy.dialects import postgresql

    names = [one.name for one in ledger.c]
    text = cast(bindparam("rows", type_=Text), postgresql.JSON)
    source = func.json_to_recordset(text).table_valued(
        *(column(one.name, one.type) for one in ledger.c)
    )
    rows = select(source.render_derived(with_types=True))
    return _on_conflict(postgresql.insert(ledger).from_select(names, rows), replaces=replaces)


def _on_conflict(statement: Any, *, replaces: bool) -> Executable:
    """Return an insert of either dialect that leaves rows alone, or replaces abandoned ones."""
    if not replaces:
        ignoring: Executable = statement.on_conflict_do_nothing(index_elements=["request_id"])
        return ignoring
    updating: Executable = statement.on_conflict_do_update(
        index_elements=["request_id"],
        set_={one.name: statement.excluded[one.name] for one in ledger.c if not one.primary_key},
        where=ledger.c.status == "abandoned",
    )
    return updating
