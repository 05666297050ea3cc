"""The book: what must be kept. API keys and settings in SQLite, one file in the data directory.

All SQL of a process runs on one thread of its own, so the event loop never waits for a disk, and
several processes (workers, the command line) may have the same file open. Times are whole Unix
seconds. A key's text never comes here, only its digest.

    BookError
      BookUnavailable      the file cannot be read or written now: locked, full, corrupt, gone
      UnsupportedBook      the URL names another database, or a newer version wrote the file
      UnknownKey           no key has this id
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5000
ADMIN_DIGEST = "admin_key_digest"

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE keys (
            id TEXT PRIMARY KEY,
            digest BLOB NOT NULL UNIQUE,
            name TEXT NOT NULL,
            team TEXT,
            models TEXT,
            limits TEXT NOT NULL,
            metadata TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            expires_at INTEGER,
            revoked_at INTEGER,
            last_used_at INTEGER
        )
        """,
        "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    ),
)
"""The statements of each schema version; `PRAGMA user_version` counts the versions applied."""


class BookError(Exception):
    """Anything the book cannot do. The message holds no digest and no password."""


class BookUnavailable(BookError):
    """The file cannot be read or written now. Nothing was changed; later it may work again."""


class UnsupportedBook(BookError):
    """The book is of a kind that this version cannot use."""


class UnknownKey(BookError):
    """No key has this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a key may use; None is no limit. Raises ValueError, which names the field."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    images_per_day: int | None = None
    speech_characters_per_day: int | None = None
    audio_seconds_per_day: int | None = None
    usd_per_month: Decimal | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            kind = Decimal if name == "usd_per_month" else int
            # bool is an int to isinstance; Decimal("NaN") < 0 raises.
            if type(value) is not kind or not Decimal(value).is_finite() or value < 0:
                raise ValueError(f"{name}: expected {kind.__name__} of at least 0, got {value!r}")

    def given(self) -> dict[str, int | Decimal]:
        """Return the limits that are set, by name."""
        values = {limit.name: getattr(self, limit.name) for limit in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOptions:
    """What the creator of a key decides. `models` are globs, None for every model."""

    name: str
    team: str | None = None
    models: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expires_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey(KeyOptions):
    """A key as the book has it."""

    id: str
    created_at: int
    revoked_at: int | None = None
    last_used_at: int | None = None


class Book:
    """An open book. Every method raises BookUnavailable when the file does not answer."""

    def __init__(self, path: Path) -> None:
        """Use `open`, which also connects."""
        self.path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="book")
        self._db: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, where: Path | str) -> Self:
        """Open or create the book in the data directory `where`, or at a `sqlite:///` URL.

        Brings an older schema up to date. The caller closes it. Raises UnsupportedBook.
        """
        book = cls(_file(where))
        try:
            book._db = await book._run(lambda: _connect(book.path))
        except BookError:
            book._thread.shutdown()
            raise
        return book

    async def aclose(self) -> None:
        """Finish what is under way and close the file. May be called twice."""
        db, self._db = self._db, None
        if db is not None:
            await self._run(db.close)
            self._thread.shutdown()

    async def create_key(self, key_id: str, digest: bytes, *, options: KeyOptions) -> None:
        """Add a key. The id and the digest must be new."""
        await self._write(lambda db: _insert_key(db, key_id, digest, options=options))

    async def find_key(self, digest: bytes) -> StoredKey | None:
        """Return the key with this digest, revoked and expired ones too."""
        rows = await self._read("SELECT * FROM keys WHERE digest = ?", digest)
        return _stored_key(rows[0]) if rows else None

    async def list_keys(self) -> list[StoredKey]:
        """Return all keys, oldest first, revoked and expired ones too."""
        rows = await self._read("SELECT * FROM keys ORDER BY created_at, rowid")
        return [_stored_key(row) for row in rows]

    async def revoke_key(self, key_id: str) -> bool:
        """Refuse this key from now on. False if it already was revoked. Raises UnknownKey."""
        return await self._write(lambda db: _revoke(db, key_id))

    async def admin_digest(self) -> bytes | None:
        """Return the digest of the stored admin key, None before the first run."""
        rows = await self._read("SELECT value FROM settings WHERE name = ?", ADMIN_DIGEST)
        return bytes.fromhex(rows[0]["value"]) if rows else None

    async def claim_first_run(
        self, key_id: str, digest: bytes, *, options: KeyOptions, admin_digest: bytes
    ) -> bool:
        """Store the first key and the admin key together, unless any process has done so before.

        True for the one caller whose keys were stored: only that one may show them.
        """

        def claim(db: sqlite3.Connection) -> bool:
            inserted = db.execute(
                "INSERT OR IGNORE INTO settings VALUES (?, ?)", (ADMIN_DIGEST, admin_digest.hex())
            )
            if inserted.rowcount == 0:
                return False
            _insert_key(db, key_id, digest, options=options)
            return True

        return await self._write(claim)

    async def _read(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        db = self._connection()
        return await self._run(lambda: db.execute(sql, parameters).fetchall())

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        db = self._connection()

        def work() -> T:
            with _transaction(db):
                return change(db)

        return await self._run(work)

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise BookUnavailable(f"{str(self.path)!r}: the book is closed")
        return self._db

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            raise BookUnavailable(f"{str(self.path)!r}: {error}") from error


def _file(where: Path | str) -> Path:
    if isinstance(where, Path) or "://" not in where:
        return Path(where).expanduser() / "book.sqlite3"
    url = urlsplit(where)
    if url.scheme != "sqlite" or url.netloc:
        raise UnsupportedBook(
            f"a book at {url.scheme}:// is not supported yet: only SQLite is, "
            "as sqlite:///absolute/path"
        )
    return Path(unquote(url.path))


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives its -wal and -shm files the mode that it finds on the main file.
    # Only a new file is touched: closing any descriptor of an open database drops its locks.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)
    try:
        db.row_factory = sqlite3.Row
        _switch_to_wal(db)
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        _migrate(db)
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


def _migrate(db: sqlite3.Connection) -> None:
    if _version(db) == len(MIGRATIONS):
        return
    with _transaction(db):
        # Read again: another process may have done the work while this one waited for the lock.
        for statements in MIGRATIONS[_version(db) :]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise UnsupportedBook(
            f"the book has schema {version}, written by a newer version; "
            f"this one knows up to {len(MIGRATIONS)}"
        )
    return version


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE takes the write lock first: a transaction that reads and only then wants to write
    # fails at once when another process wrote in between, whatever the busy timeout.
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _insert_key(db: sqlite3.Connection, key_id: str, digest: bytes, *, options: KeyOptions) -> None:
    row = {
        "id": key_id,
        "digest": digest,
        "name": options.name,
        "team": options.team,
        "models": None if options.models is None else json.dumps(options.models),
        # Money as text: a JSON number would come back as a float.
        "limits": json.dumps(options.limits.given(), default=str),
        "metadata": json.dumps(dict(options.metadata)),
        "created_at": int(time.time()),
        "expires_at": options.expires_at,
    }
    columns = ", ".join(row)
    values = ", ".join(f":{column}" for column in row)
    db.execute(f"INSERT INTO keys ({columns}) VALUES ({values})", row)  # noqa: S608 (own names)


def _revoke(db: sqlite3.Connection, key_id: str) -> bool:
    changed = db.execute(
        "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
        (int(time.time()), key_id),
    )
    if changed.rowcount:
        return True
    if db.execute("SELECT 1 FROM keys WHERE id = ?", (key_id,)).fetchone() is None:
        raise UnknownKey(f"no key has the id {key_id!r}")
    return False


def _stored_key(row: sqlite3.Row) -> StoredKey:
    values = dict(row)
    del values["digest"]
    limits = json.loads(values["limits"])
    if "usd_per_month" in limits:
        limits["usd_per_month"] = Decimal(limits["usd_per_month"])
    values["limits"] = Limits(**limits)
    values["metadata"] = json.loads(values["metadata"])
    if values["models"] is not None:
        values["models"] = tuple(json.loads(values["models"]))
    return StoredKey(**values)
