"""A book of any size, filled in minutes: rows are made by SQLite itself, indexes come last."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from gateway.accounts import shard_of
from gateway.book import Book
from gateway.keys import NewKey, digest, generate, load_pepper

DAYS = 90  # over which the ledger's rows are spread, up to now
_DAY_MS = 86_400_000

_KEYS = """
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)
    INSERT INTO keys (id, name, team, limits, metadata, created_at, revision)
    SELECT printf('k%07d', i), printf('key %d', i), NULL, :limits, '{}', :since + i, 1 FROM n
"""
_DIGESTS = "INSERT INTO digests (digest, key_id) SELECT randomblob(32), id FROM keys WHERE id > 'k'"
_LEDGER = """
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)
    INSERT INTO ledger
    SELECT printf('%08x-%04x-7000-8000-%012x', at_ms >> 16, at_ms & 65535, i), at_ms,
        at_ms / 86400000, shard_of(key_id), at_ms << 20 | i & 1048575, key_id, NULL, 'bench',
        'bench', 'bench', 'chat', 'ok', 'stop', 0, 0, 24, 16, 0, 0, 0, 4000, 130, 128, NULL, 0, NULL
    FROM (
        SELECT i, :since_ms + CAST(i * :step_ms AS INTEGER) AS at_ms,
            printf('k%07d', i * 7919 % :keys) AS key_id FROM n
    )
"""


def fill(data_dir: Path, *, keys: int, rows: int, limits: dict[str, int]) -> float:
    """Add keys and ledger rows to the book of `data_dir`; return the seconds that it took.

    The keys are `k0000000` and so on. Nobody knows their texts.
    """
    asyncio.run(_make(data_dir))
    began = time.perf_counter()
    now = int(time.time())
    with closing(sqlite3.connect(data_dir / "book.sqlite3", isolation_level=None)) as db:
        db.create_function("shard_of", 1, shard_of, deterministic=True)
        for pragma in ("synchronous = OFF", "cache_size = -1000000", "temp_store = FILE"):
            db.execute(f"PRAGMA {pragma}")
        indexes = _drop_indexes(db)
        since = now - DAYS * _DAY_MS // 1000
        db.execute("BEGIN")
        text = json.dumps(limits)
        db.execute(_KEYS, {"count": keys, "since": since, "limits": text})
        db.execute(_DIGESTS)
        step_ms = DAYS * _DAY_MS / rows
        times = {"since_ms": since * 1000, "step_ms": step_ms}
        db.execute(_LEDGER, {"count": rows, "keys": keys, **times})
        db.execute("COMMIT")
        for statement in indexes:
            db.execute(statement)
        db.execute("ANALYZE")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return time.perf_counter() - began


def adopt(data_dir: Path, count: int) -> Sequence[NewKey]:
    """Return so many known keys, which take the place of some in the book, spread evenly."""
    pepper = load_pepper(data_dir)
    made = [generate() for _ in range(count)]
    with closing(sqlite3.connect(data_dir / "book.sqlite3")) as db, db:
        [(all_,)] = db.execute("SELECT count(*) FROM keys WHERE id LIKE 'k_______'")
        for at, key in enumerate(made):
            old = f"k{at * all_ // count:07}"
            db.execute("UPDATE keys SET id = ? WHERE id = ?", (key.id, old))
            values = (digest(key.text, pepper), key.id, old)
            db.execute("UPDATE digests SET digest = ?, key_id = ? WHERE key_id = ?", values)
    return made


def _drop_indexes(db: sqlite3.Connection) -> list[str]:
    """Drop the ledger's indexes; return what makes them again."""
    found = db.execute(
        "SELECT name, sql FROM sqlite_master"
        " WHERE type = 'index' AND tbl_name = 'ledger' AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in found:
        db.execute(f"DROP INDEX {name}")
    return [sql for _, sql in found]


async def _make(data_dir: Path) -> None:
    book = await Book.open(data_dir)
    await book.aclose()
