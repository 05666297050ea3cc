import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from gateway import book as book_module
from gateway.book import (
    MIGRATIONS,
    Book,
    BookUnavailable,
    KeyOptions,
    Limits,
    UnknownKey,
    UnsupportedBook,
)

pytestmark = pytest.mark.anyio

PROJECT = Path(book_module.__file__).parents[1]
DIGEST = b"d" * 32
ALICE = KeyOptions(name="alice")

OTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
from gateway import keys
from gateway.book import Book, KeyOptions

async def create(data_dir):
    book = await Book.open(data_dir)
    await book.create_key("elsewhere", b"e" * 32, options=KeyOptions(name="bob"))
    await book.aclose()

async def first_run(data_dir):
    print("ready", flush=True)
    sys.stdin.readline()
    book = await Book.open(data_dir)
    pepper = keys.load_pepper(data_dir)
    made = await keys.first_run(book, pepper)
    print(pepper.hex(), made.key.text if made else "lost")
    await book.aclose()

asyncio.run({"create": create, "first_run": first_run}[sys.argv[1]](Path(sys.argv[2])))
"""


def other_process(act: str, data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, act, str(data_dir)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def raw(data_dir: Path) -> sqlite3.Connection:
    return sqlite3.connect(data_dir / "book.sqlite3", isolation_level=None)


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Book]:
    opened = await Book.open(tmp_path)
    yield opened
    await opened.aclose()


async def test_key_comes_back_as_it_was_created(book: Book) -> None:
    limits = Limits(rpm=60, tokens_per_day=0, usd_per_month=Decimal("0.10"))
    options = KeyOptions(
        name="alice",
        team="red",
        models=("gpt-*", "meta-llama/*"),
        limits=limits,
        metadata={"note": "für später"},
        expires_at=2_000_000_000,
    )
    await book.create_key("abc", DIGEST, options=options)

    key = await book.find_key(DIGEST)

    assert key is not None
    assert (key.id, key.name, key.team) == ("abc", "alice", "red")
    assert key.models == ("gpt-*", "meta-llama/*")
    assert key.limits == limits and str(key.limits.usd_per_month) == "0.10"
    assert key.metadata == {"note": "für später"}
    assert (key.expires_at, key.revoked_at, key.last_used_at) == (2_000_000_000, None, None)
    assert 1_700_000_000 < key.created_at < 10_000_000_000


async def test_unknown_digest_finds_nothing(book: Book) -> None:
    await book.create_key("abc", DIGEST, options=ALICE)

    assert await book.find_key(b"x" * 32) is None


async def test_keys_are_listed_oldest_first(book: Book) -> None:
    for key_id in ("c", "a", "b"):
        await book.create_key(key_id, key_id.encode(), options=ALICE)

    assert [key.id for key in await book.list_keys()] == ["c", "a", "b"]


async def test_keys_outlive_the_process(tmp_path: Path) -> None:
    first = await Book.open(tmp_path)
    await first.create_key("abc", DIGEST, options=ALICE)
    await first.aclose()

    second = await Book.open(tmp_path)

    assert await second.find_key(DIGEST) is not None
    await second.aclose()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rpm", -1),
        ("rpm", True),
        ("tpm", 1.5),
        ("concurrency", "3"),
        ("usd_per_month", 5),
        ("usd_per_month", Decimal("NaN")),
        ("usd_per_month", Decimal("Infinity")),
        ("usd_per_month", Decimal("-0.01")),
    ],
)
def test_limit_that_makes_no_sense_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]


async def test_key_is_revoked_once_and_stays_in_the_book(book: Book) -> None:
    await book.create_key("abc", DIGEST, options=ALICE)

    assert await book.revoke_key("abc") is True
    revoked = await book.find_key(DIGEST)
    assert await book.revoke_key("abc") is False

    assert revoked is not None and revoked.revoked_at is not None
    assert await book.list_keys() == [revoked]


async def test_revoking_an_unknown_id_says_so(book: Book) -> None:
    with pytest.raises(UnknownKey, match="'nobody'"):
        await book.revoke_key("nobody")


async def test_a_key_id_is_given_once(book: Book) -> None:
    await book.create_key("abc", DIGEST, options=ALICE)

    with pytest.raises(BookUnavailable, match=r"keys\.id"):
        await book.create_key("abc", b"other", options=KeyOptions(name="bob"))

    assert [key.name for key in await book.list_keys()] == ["alice"]


async def test_files_are_private(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    book = await Book.open(data_dir)
    await book.create_key("abc", DIGEST, options=ALICE)

    modes = {path.name: path.stat().st_mode & 0o777 for path in data_dir.iterdir()}

    assert modes == {"book.sqlite3": 0o600, "book.sqlite3-wal": 0o600, "book.sqlite3-shm": 0o600}
    assert data_dir.stat().st_mode & 0o777 == 0o700
    await book.aclose()


async def test_key_made_by_another_process_is_found_while_open(book: Book, tmp_path: Path) -> None:
    with other_process("create", tmp_path) as process:
        assert await asyncio.to_thread(process.wait, 20) == 0

    key = await book.find_key(b"e" * 32)

    assert key is not None and key.name == "bob"


async def test_processes_that_start_together_make_the_first_keys_once(tmp_path: Path) -> None:
    processes = [other_process("first_run", tmp_path) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    outputs = [process.communicate(timeout=20)[0].split() for process in processes]

    peppers, made = zip(*outputs, strict=True)
    assert len(set(peppers)) == 1
    assert sorted(text == "lost" for text in made) == [False, True, True, True]
    book = await Book.open(tmp_path)
    assert [key.name for key in await book.list_keys()] == ["default"]
    await book.aclose()


async def test_first_run_is_all_or_nothing(book: Book) -> None:
    await book.create_key("abc", DIGEST, options=ALICE)

    with pytest.raises(BookUnavailable):
        await book.claim_first_run("abc", b"new", options=ALICE, admin_digest=b"admin")

    assert await book.admin_digest() is None


async def test_write_waits_for_another_writer_without_holding_up_the_loop(
    book: Book, tmp_path: Path
) -> None:
    other = raw(tmp_path)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(book.create_key("abc", DIGEST, options=ALICE))
    await asyncio.wait([writing], timeout=0.05)
    assert not writing.done()

    other.execute("ROLLBACK")
    other.close()
    await writing

    assert await book.find_key(DIGEST) is not None


async def test_lock_that_is_never_released_makes_the_book_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_module, "BUSY_TIMEOUT_MS", 50)
    book = await Book.open(tmp_path)
    other = raw(tmp_path)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(BookUnavailable, match=r"book\.sqlite3.*locked"):
        await book.create_key("abc", DIGEST, options=ALICE)

    other.close()
    await book.create_key("abc", DIGEST, options=ALICE)
    await book.aclose()


async def test_file_that_is_no_database_makes_the_book_unavailable(tmp_path: Path) -> None:
    (tmp_path / "book.sqlite3").write_bytes(b"certainly not a database" * 100)

    with pytest.raises(BookUnavailable, match=r"book\.sqlite3"):
        await Book.open(tmp_path)


async def test_data_directory_that_cannot_be_made_makes_the_book_unavailable(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(BookUnavailable, match="file"):
        await Book.open(tmp_path / "file")


async def test_closed_book_says_so(tmp_path: Path) -> None:
    book = await Book.open(tmp_path)
    await book.aclose()
    await book.aclose()

    with pytest.raises(BookUnavailable, match="closed"):
        await book.list_keys()


async def test_url_of_another_database_is_refused_without_its_password() -> None:
    with pytest.raises(UnsupportedBook, match="only SQLite") as caught:
        await Book.open("postgresql://dragoman:hunter2@db/dragoman")

    assert "hunter2" not in str(caught.value)


async def test_sqlite_url_names_the_file(tmp_path: Path) -> None:
    book = await Book.open(f"sqlite://{tmp_path}/my%20keys.db")

    assert (tmp_path / "my keys.db").is_file()
    await book.aclose()


async def test_older_schema_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await Book.open(tmp_path)
    await old.create_key("abc", DIGEST, options=ALICE)
    await old.aclose()

    added = ("CREATE TABLE teams (name TEXT)", "INSERT INTO teams SELECT name FROM keys")
    monkeypatch.setattr(book_module, "MIGRATIONS", (*MIGRATIONS, added))
    new = await Book.open(tmp_path)

    other = raw(tmp_path)
    assert other.execute("SELECT * FROM teams").fetchall() == [("alice",)]
    assert other.execute("PRAGMA user_version").fetchone() == (2,)
    other.close()
    await new.aclose()


async def test_migration_that_fails_leaves_the_old_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await Book.open(tmp_path)).aclose()
    broken = ("CREATE TABLE teams (name TEXT)", "nonsense")
    monkeypatch.setattr(book_module, "MIGRATIONS", (*MIGRATIONS, broken))

    with pytest.raises(BookUnavailable, match="nonsense"):
        await Book.open(tmp_path)

    other = raw(tmp_path)
    assert other.execute("PRAGMA user_version").fetchone() == (1,)
    assert not other.execute("SELECT * FROM sqlite_master WHERE name = 'teams'").fetchall()
    other.close()


async def test_book_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    await (await Book.open(tmp_path)).aclose()
    other = raw(tmp_path)
    other.execute("PRAGMA user_version = 99")
    other.close()

    with pytest.raises(UnsupportedBook, match="schema 99"):
        await Book.open(tmp_path)


async def test_commits_reach_the_disk_before_they_are_acknowledged(tmp_path: Path) -> None:
    book = await Book.open(tmp_path)

    [synchronous] = await book._read("PRAGMA synchronous")
    [journal] = await book._read("PRAGMA journal_mode")

    assert (synchronous[0], journal[0]) == (2, "wal")
    await book.aclose()
