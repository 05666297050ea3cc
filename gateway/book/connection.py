"""A connection to the book: kept open, dropped when it failed, its errors turned into ours."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.exc import DBAPIError, StatementError

from gateway.book import sqlite
from gateway.book.address import Address, SqliteAddress
from gateway.book.errors import BookUnavailable

T = TypeVar("T")
Row = dict[str, Any]

BATCH = 1000
_DATA_STATES = ("22", "23")  # SQLSTATE classes: data exception, integrity constraint violation
_DATA_ERRORS = (
    UnicodeEncodeError,
    OverflowError,
    TypeError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
)
_TRUSTED_SECONDS = 1.0


@contextmanager
def transaction(db: Connection) -> Iterator[None]:
    """Commit what the block did, or undo all of it."""
    # IMMEDIATE takes the write lock first: a transaction that reads and only then wants to write
    # fails at once when another process wrote in between, whatever the busy timeout.
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.dialect.name == "sqlite" else "BEGIN")
    try:
        yield
        db.commit()
    except BaseException:
        db.rollback()
        raise


class Session:
    """One connection, made when it is needed. All but `interrupt` belong to one thread.

    A `patient` one waits for as long as a statement takes.
    """

    def __init__(self, address: Address, *, patient: bool = False) -> None:
        self._address = address
        self._engine = _make_engine(address, patient=patient)
        self._db: Connection | None = None
        self._driver: Any = None
        self._used = 0.0
        self._is_interrupted = False

    def run(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns. Raises BookUnavailable, and what `work` raises."""
        with self._connected() as db:
            return work(db)

    def batches(
        self, statement: Executable, shape: Callable[[Row], T]
    ) -> Generator[list[T], None, None]:
        """Yield the rows in a shape, some at a time, as they were when the first was asked for."""
        with self._connected() as db:
            # PostgreSQL's cursors live in a transaction; to SQLite this one only reads.
            db.exec_driver_sql("BEGIN")
            options = {"stream_results": True, "max_row_buffer": BATCH}
            result = db.execute(statement, execution_options=options)
            names = tuple(result.keys())
            for rows in result.partitions(BATCH):
                yield [shape(dict(zip(names, row, strict=True))) for row in rows]

    def interrupt(self) -> None:
        """Make the statement that runs now fail, and every later one. From any thread."""
        self._is_interrupted = True
        driver = self._driver
        if driver is not None:
            driver.interrupt()

    def close(self) -> None:
        """Close the connection. May be called twice."""
        db, self._db, self._driver = self._db, None, None
        if db is not None:
            with suppress(DBAPIError, OSError):
                # Not `close` alone, which would first talk to a server that may be gone.
                db.invalidate()
                db.close()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            db = self._open()
            try:
                yield db
            finally:
                db.rollback()  # what SQLAlchemy began by itself; to the database it is nothing
                self._used = time.monotonic()
        except (DBAPIError, OSError) as error:
            self.close()
            raise BookUnavailable(f"{self._address}: {reason_of(error)}") from error

    def _open(self) -> Connection:
        if self._db is not None and time.monotonic() - self._used > _TRUSTED_SECONDS:
            self._close_if_dead(self._db)
        if self._db is None:
            self._db = self._engine.connect()
            self._driver = self._db.connection.dbapi_connection
        if self._is_interrupted:
            raise OSError("interrupted")
        return self._db

    def _close_if_dead(self, db: Connection) -> None:
        """Ask: the server may have been started anew since the connection was last used."""
        try:
            db.exec_driver_sql("SELECT 1")
        except (DBAPIError, OSError):
            self.close()


def reason_of(error: BaseException) -> str:
    """Return what a database said, without the values that PostgreSQL adds as details."""
    if isinstance(error, StatementError) and error.orig is not None:
        error = error.orig
    if error.args and isinstance(error.args[0], dict):
        return str(error.args[0].get("M", "unknown error"))
    return str(error)


def refuses_data(error: BaseException) -> bool:
    """Tell whether a value was refused for what it is, so that it would be refused again."""
    reason = error.orig if isinstance(error, StatementError) else error
    if isinstance(reason, _DATA_ERRORS):
        return True
    details = reason.args[0] if reason and reason.args else None
    return isinstance(details, dict) and str(details.get("C"))[:2] in _DATA_STATES


def _make_engine(address: Address, *, patient: bool) -> Engine:
    if isinstance(address, SqliteAddress):
        return sqlite.make_engine(address.path)
    # Here, as the driver costs a fiftieth of a second and 4 MB.
    from gateway.book import postgres

    return postgres.make_engine(address, patient=patient)
