"""Opening a book that is a file."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine

BUSY_TIMEOUT_MS = 5000


def make_engine(path: Path) -> Engine:
    """Return what makes connections to the file, which is created with mode 0600."""
    return create_engine(
        "sqlite://",
        creator=lambda: _connect(path),
        # Transactions begin and end by `connection.transaction` alone.
        isolation_level="AUTOCOMMIT",
        poolclass=NullPool,
        hide_parameters=True,
    )


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives its -wal and -shm files the mode that it finds on the main file.
    # Only a new file is touched: closing any descriptor of an open database drops its locks.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)
    try:
        _switch_to_wal(db)
        db.execute("PRAGMA synchronous = FULL")
        # 32 MB of log before it is copied into the file: the ledger's indexes take new entries
        # at so many places that copying after each 4 MB (the default) costs a third of the time.
        db.execute("PRAGMA wal_autocheckpoint = 8000")
    except BaseException:
        db.close()
        raise
    return db


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """Turn the write-ahead log on, which stays on for good."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # Two that switch at once fail at once: SQLite's busy timeout does not cover this.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
