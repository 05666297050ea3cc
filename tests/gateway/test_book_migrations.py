import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from gateway import book as book_package
from gateway.book import Book, BookUnavailable, KeyOptions, UnsupportedBook
from gateway.book.schema import VERSION, metadata
from gateway.limits import Limits
from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer

pytestmark = pytest.mark.anyio

PROJECT = Path(book_package.__file__).parents[2]

LEGACY = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE, name TEXT NOT NULL, team TEXT, models TEXT,
    limits TEXT NOT NULL, metadata TEXT NOT NULL, created_at INTEGER NOT NULL,
    expires_at INTEGER, revoked_at INTEGER, last_used_at INTEGER
);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO keys VALUES ('abc', x'64', 'alice', 'red', '["a*", "b"]',
    '{"rpm": 5, "tpm": 9000000000000, "usd_per_month": "1.50"}', '{"n": "ü"}', 17, 99, 18, NULL);
INSERT INTO keys VALUES ('def', x'65', 'bob', NULL, NULL,
    '{"usd_per_month": "5000000"}', '{}', 19, NULL, NULL, 20);
INSERT INTO settings VALUES ('admin_key_digest', '6162');
PRAGMA user_version = 1;
"""

OPEN = """
import asyncio, sys
from gateway.book import Book
print("ready", flush=True)
sys.stdin.readline()
async def main():
    await (await Book.open(sys.argv[1])).aclose()
asyncio.run(main())"""


def other_process(code: str, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, url],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    """A data directory of before Alembic, with the file in it."""
    db = sqlite3.connect(tmp_path / "book.sqlite3")
    db.executescript(LEGACY)
    db.close()
    return tmp_path


@pytest.fixture(params=["sqlite", "postgresql"])
def nothing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a book that does not exist yet."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/book.sqlite3"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)


async def test_tables_are_as_the_code_takes_them_to_be(nothing: str) -> None:
    book = await Book.open(nothing)

    def differences(db: Connection) -> object:
        return compare_metadata(MigrationContext.configure(db), metadata)

    assert await book._read(differences) == []
    await book.aclose()


async def test_processes_that_start_together_make_the_tables_once(nothing: str) -> None:
    processes = [other_process(OPEN, nothing) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    assert [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in processes] == [
        "",
        "",
        "",
    ]
    assert [process.returncode for process in processes] == [0, 0, 0]


async def test_keys_of_before_are_kept(legacy: Path) -> None:
    book = await Book.open(legacy)

    alice, bob = await book.find_key(b"d"), await book.find_key(b"e")

    assert alice is not None and bob is not None
    assert (alice.id, alice.name, alice.team, alice.models) == ("abc", "alice", "red", ("a*", "b"))
    assert (alice.created_at, alice.expires_at, alice.revoked_at) == (17, 99, 18)
    assert alice.metadata == {"n": "ü"} and alice.team_limits == Limits()
    assert (bob.id, bob.team, bob.models, bob.digest_expires_at) == ("def", None, None, None)
    assert await book.admin_digest() == b"ab"
    assert [(team.name, team.created_at) for team in await book.list_teams()] == [("red", 17)]
    assert (await book.changes_since(0)).digests == []
    await book.aclose()


async def test_limits_of_before_are_brought_below_the_bounds_of_now(legacy: Path) -> None:
    book = await Book.open(legacy)

    alice, bob = await book.list_keys()

    assert alice.limits == Limits(rpm=5, tpm=10**12, usd_per_month=Decimal("1.50"))
    assert bob.limits == Limits(usd_per_month=Decimal(1_000_000))
    await book.aclose()


async def test_migrated_keys_are_older_than_new_ones_and_can_be_changed(legacy: Path) -> None:
    book = await Book.open(legacy)

    await book.create_key("aaa", b"f", options=KeyOptions(name="dave"))
    assert [key.id for key in await book.list_keys(after="abc")] == ["def", "aaa"]
    await book.update_key("def", {"name": "carol"}, actor="ann")
    await book.rotate_key("def", b"new", grace_seconds=60, actor="ann")
    assert await book.revoke_key("def")

    old, new = await book.find_key(b"e"), await book.find_key(b"new")
    assert old is not None and old.name == "carol" and old.digest_expires_at is not None
    assert new is not None and new.revoked_at is not None
    await book.aclose()


async def test_older_versions_are_told_that_a_newer_one_wrote_the_book(legacy: Path) -> None:
    await (await Book.open(legacy)).aclose()

    db = sqlite3.connect(legacy / "book.sqlite3")
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()


async def test_migration_that_fails_leaves_the_old_tables(legacy: Path) -> None:
    db = sqlite3.connect(legacy / "book.sqlite3")
    db.execute("CREATE TABLE audit (in_the_way TEXT)")
    before = db.execute("SELECT sql FROM sqlite_master").fetchall()

    with pytest.raises(BookUnavailable, match="audit already exists"):
        await Book.open(legacy)

    assert db.execute("SELECT sql FROM sqlite_master").fetchall() == before
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert json.loads(db.execute("SELECT limits FROM keys").fetchone()[0])["rpm"] == 5
    db.close()


@pytest.mark.parametrize("version", [2, 99])
async def test_file_of_an_unknown_kind_is_refused(tmp_path: Path, version: int) -> None:
    db = sqlite3.connect(tmp_path / "book.sqlite3")
    db.execute(f"PRAGMA user_version = {version}")
    db.close()

    with pytest.raises(UnsupportedBook, match="newer version"):
        await Book.open(tmp_path)


async def test_book_of_a_newer_version_is_refused(book_url: str, book: Book) -> None:
    await book._write(
        lambda db: db.exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
    )

    with pytest.raises(UnsupportedBook, match=f"schema 0099.*newer version.*{VERSION}"):
        await Book.open(book_url)


async def test_opening_a_book_of_now_does_not_load_alembic(book_url: str) -> None:
    process = other_process(f"{OPEN}; assert 'alembic' not in sys.modules", book_url)
    _, errors = await asyncio.to_thread(process.communicate, "go\n", 30)

    assert (process.returncode, errors) == (0, "")
