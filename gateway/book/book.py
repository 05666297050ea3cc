"""An open book."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Executable

from gateway.book import audit, changes, keys, ledger, settings, teams, usage
from gateway.book.address import Address, parse_address
from gateway.book.audit import AuditRecord, Author
from gateway.book.changes import Changes
from gateway.book.connection import Row, Session, transaction
from gateway.book.errors import BookError, BookUnavailable
from gateway.book.keys import FoundKey, KeyOptions, StoredKey
from gateway.book.migrate import migrate, stored_version
from gateway.book.schema import VERSION
from gateway.book.teams import Team
from gateway.book.usage import Total, UsageFilter
from gateway.ledger import Entry
from gateway.limits import Limits

T = TypeVar("T")


class Book:
    """All SQL runs on one thread of its own, so the event loop never waits for a disk.

    What may be long (`usage_rows`, `usage_by`, `totals`) has a thread and a connection for itself.
    Every method raises BookUnavailable when the database does not answer; a later call connects
    anew.
    """

    def __init__(self, address: Address, *, clock: Callable[[], float] = time.time) -> None:
        """Use `open`, which also connects. `clock` tells Unix seconds."""
        self._address = address
        self._clock = clock
        self._session = Session(address)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="book")
        self._is_open = True

    @classmethod
    async def open(cls, where: Path | str, *, clock: Callable[[], float] = time.time) -> Self:
        """Open or create the book in the data directory `where`, or at a URL.

        URLs are `sqlite:///absolute/path` and `postgresql://user:password@host:port/database`,
        with `?sslmode=` and `?sslrootcert=` as libpq has them. Brings an older schema up to date.
        The caller closes it. Raises UnsupportedBook.
        """
        book = cls(parse_address(where), clock=clock)
        try:
            await book._run(book._bring_up_to_date)
        except BookError:
            await book.aclose()
            raise
        return book

    async def aclose(self) -> None:
        """Finish what is under way and close the connection. May be called twice."""
        if self._is_open:
            self._is_open = False
            await asyncio.get_running_loop().run_in_executor(self._thread, self._session.close)
            self._thread.shutdown()

    async def create_key(
        self,
        key_id: str,
        digest: bytes,
        *,
        options: KeyOptions,
        actor: str = "operator",
        make_team: bool = False,
    ) -> StoredKey:
        """Add a key; the id and the digest must be new. Raises UnknownTeam unless `make_team`."""
        author = self._author(actor)
        return await self._write(
            lambda db: keys.create(
                db, key_id, digest, options=options, author=author, make_team=make_team
            )
        )

    async def find_key(self, digest: bytes) -> FoundKey | None:
        """Return the key with this digest: revoked, expired and rotated-out ones too."""
        return await self._read(lambda db: keys.find(db, digest))

    async def show_key(self, key_id: str) -> StoredKey:
        """Return one key. Raises UnknownKey."""
        return await self._read(lambda db: keys.show(db, key_id))

    async def list_keys(
        self, *, team: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[StoredKey]:
        """Return keys, oldest first, that come after the one with the id `after`.

        Revoked and expired ones too. Raises UnknownKey.
        """
        return await self._read(lambda db: keys.listed(db, team=team, after=after, limit=limit))

    async def update_key(self, key_id: str, changes: Mapping[str, Any], *, actor: str) -> StoredKey:
        """Change `name`, `models`, `limits`, `metadata` or `expires_at`.

        Limits are merged over the old ones; None takes one away. Raises UnknownKey, and
        ValueError, which names what cannot be.
        """
        author = self._author(actor)
        return await self._write(lambda db: keys.change(db, key_id, changes, author=author))

    async def rotate_key(
        self, key_id: str, new_digest: bytes, *, grace_seconds: int, actor: str
    ) -> StoredKey:
        """Give the key another digest; old ones stay good for `grace_seconds` at most.

        Raises UnknownKey.
        """
        author = self._author(actor)
        return await self._write(
            lambda db: keys.rotate(
                db, key_id, new_digest, grace_seconds=grace_seconds, author=author
            )
        )

    async def revoke_key(self, key_id: str, *, actor: str = "operator") -> bool:
        """Refuse this key from now on. False if it already was revoked. Raises UnknownKey."""
        author = self._author(actor)
        return await self._write(lambda db: keys.revoke(db, key_id, author=author))

    async def create_team(
        self, name: str, *, limits: Limits, metadata: Mapping[str, Any] | None = None, actor: str
    ) -> Team:
        """Add a team. Raises TeamExists."""
        author = self._author(actor)
        team = Team(name=name, limits=limits, metadata=metadata or {}, created_at=author.now)
        return await self._write(lambda db: teams.create(db, team, author=author))

    async def update_team(self, name: str, changes: Mapping[str, Any], *, actor: str) -> Team:
        """Change `limits`, merged over the old ones, or `metadata`.

        Raises UnknownTeam, and ValueError, which names what cannot be.
        """
        author = self._author(actor)
        return await self._write(lambda db: teams.change(db, name, changes, author=author))

    async def show_team(self, name: str) -> Team:
        """Return one team. Raises UnknownTeam."""
        return await self._read(lambda db: teams.show(db, name))

    async def list_teams(self) -> list[Team]:
        """Return all teams by name."""
        return await self._read(teams.listed)

    async def audit(
        self, *, subject: str | None = None, after: int | None = None, limit: int = 100
    ) -> list[AuditRecord]:
        """Return who changed what, newest first, from before the record with the id `after`."""
        return await self._read(
            lambda db: audit.read(db, subject=subject, after=after, limit=limit)
        )

    async def changes_since(self, revision: int) -> Changes:
        """Return which keys changed after `revision`, by themselves or with their team."""
        return await self._read(lambda db: changes.changes_since(db, revision))

    async def admin_digest(self) -> bytes | None:
        """Return the digest of the stored admin key, None before the first run."""
        return await self._read(settings.admin_digest)

    async def claim_first_run(
        self, key_id: str, digest: bytes, *, options: KeyOptions, admin_digest: bytes
    ) -> bool:
        """Store the first key and the admin key together, unless any process has done so before.

        True for the one caller whose keys were stored: only that one may show them.
        """
        author = self._author("first run")

        def claim(db: Connection) -> bool:
            won = settings.claim_admin_digest(db, admin_digest)
            if won:
                keys.create(db, key_id, digest, options=options, author=author, make_team=True)
            return won

        return await self._write(claim)

    async def add_entries(self, entries: Sequence[Entry]) -> None:
        """Store all entries or none. A request that has a row keeps it, so again does no harm.

        An entry that `replaces` takes the place of an `abandoned` row. Raises BadEntries.
        """
        await self._run(lambda: self._session.run(lambda db: ledger.add(db, entries)))

    async def settled_requests(self, ids: Collection[str]) -> set[str]:
        """Return which of the requests the ledger has, not as `abandoned`."""
        return await self._read(lambda db: ledger.settled(db, list(ids)))

    def usage_rows(self, which: UsageFilter) -> AsyncGenerator[list[Row], None]:
        """Yield the ledger's rows by time, some at a time."""
        return self._stream(usage.rows(which), dict)

    def usage_by(
        self, which: UsageFilter, by: Sequence[str] = ("key", "model", "day")
    ) -> AsyncGenerator[list[Row], None]:
        """Yield sums in the order of what they are grouped by (`usage.GROUPS`), some at a time.

        A day is `2026-11-22`, a month `2026-11`. Raises ValueError for another group.
        """
        return self._stream(usage.sums(which, by=by), dict)

    def totals(
        self,
        *,
        day: int,
        month: int,
        scope: str | None = None,
        shard: int | None = None,
        upto: Mapping[int, int] | None = None,
    ) -> AsyncGenerator[list[Total], None]:
        """Yield what counters should say of a UTC day and month, of one scope or of all.

        A scope without a row is left out. `upto` is, by shard, the greatest entry that counts; of
        a shard that it does not name, none.
        """
        query = usage.totals(day=day, month=month, scope=scope, shard=shard, upto=upto)
        return self._stream(query, lambda row: Total(**row))

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._run(lambda: self._session.run(work))

    async def _write(self, change: Callable[[Connection], T]) -> T:
        def work(db: Connection) -> T:
            with transaction(db):
                return change(db)

        return await self._run(lambda: self._session.run(work))

    async def _run(self, work: Callable[[], T]) -> T:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _stream(
        self, statement: Executable, shape: Callable[[Row], T]
    ) -> AsyncGenerator[list[T], None]:
        self._check_open()
        session = Session(self._address, patient=True)
        batches = session.batches(statement, shape)
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="book-stream")
        loop = asyncio.get_running_loop()
        try:
            while rows := await loop.run_in_executor(thread, next, batches, None):
                yield rows
        except BaseException:
            session.interrupt()
            raise
        finally:
            # Nothing is awaited here: whoever leaves early may be cancelled.
            thread.submit(batches.close)
            thread.submit(session.close)
            thread.shutdown(wait=False)

    def _bring_up_to_date(self) -> None:
        if self._session.run(stored_version) == VERSION:
            return
        patient = Session(self._address, patient=True)
        try:
            patient.run(migrate)
        finally:
            patient.close()

    def _author(self, actor: str) -> Author:
        return Author(actor=actor, now=int(self._clock()))

    def _check_open(self) -> None:
        if not self._is_open:
            raise BookUnavailable(f"{self._address}: the book is closed")
