import asyncio
import sqlite3
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from gateway import book as book_package
from gateway.book import Book, BookUnavailable, KeyOptions, sqlite
from gateway.limits import Limits
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

PROJECT = Path(book_package.__file__).parents[2]
DIGEST = b"d" * 32
ALICE = KeyOptions(name="alice")

OTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
from gateway import keys
from gateway.book import Book, KeyOptions

async def create(url):
    book = await Book.open(url)
    await book.create_key("elsewhere", b"e" * 32, options=KeyOptions(name="bob"))
    await book.aclose()

async def first_run(url, data_dir):
    print("ready", flush=True)
    sys.stdin.readline()
    book = await Book.open(url)
    pepper = keys.load_pepper(Path(data_dir))
    made = await keys.first_run(book, pepper)
    print(pepper.hex(), made.key.text if made else "lost")
    await book.aclose()

asyncio.run({"create": create, "first_run": first_run}[sys.argv[1]](*sys.argv[2:]))
"""


def other_process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, *arguments],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def raw(data_dir: Path) -> sqlite3.Connection:
    return sqlite3.connect(data_dir / "book.sqlite3", isolation_level=None)


async def test_keys_outlive_the_process(book_url: str) -> None:
    first = await Book.open(book_url)
    await first.create_key("abc", DIGEST, options=ALICE)
    await first.aclose()

    second = await Book.open(book_url)

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


async def test_files_are_private(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    book = await Book.open(data_dir)
    await book.create_key("abc", DIGEST, options=ALICE)

    modes = {path.name: path.stat().st_mode & 0o777 for path in data_dir.iterdir()}

    assert modes == {"book.sqlite3": 0o600, "book.sqlite3-wal": 0o600, "book.sqlite3-shm": 0o600}
    assert data_dir.stat().st_mode & 0o777 == 0o700
    await book.aclose()


async def test_key_made_by_another_process_is_found_while_open(book: Book, book_url: str) -> None:
    with other_process("create", book_url) as process:
        assert await asyncio.to_thread(process.wait, 20) == 0

    key = await book.find_key(b"e" * 32)

    assert key is not None and key.name == "bob"


async def test_processes_that_start_together_make_the_first_keys_once(
    book_url: str, tmp_path: Path
) -> None:
    processes = [other_process("first_run", book_url, str(tmp_path)) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    outputs = [process.communicate(timeout=PATIENCE_SECONDS)[0].split() for process in processes]

    peppers, made = zip(*outputs, strict=True)
    assert len(set(peppers)) == 1
    assert sorted(text == "lost" for text in made) == [False, True, True, True]
    book = await Book.open(book_url)
    assert [key.name for key in await book.list_keys()] == ["default"]
    await book.aclose()


async def test_first_run_is_all_or_nothing(book: Book) -> None:
    await book.create_key("abc", DIGEST, options=ALICE)

    with pytest.raises(BookUnavailable):
        await book.claim_first_run("abc", b"new", options=ALICE, admin_digest=b"admin")

    assert await book.admin_digest() is None


async def test_write_waits_for_another_writer_without_holding_up_the_loop(tmp_path: Path) -> None:
    book = await Book.open(tmp_path)
    other = raw(tmp_path)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(book.create_key("abc", DIGEST, options=ALICE))
    await asyncio.wait([writing], timeout=0.05)
    assert not writing.done()

    other.execute("ROLLBACK")
    other.close()
    await writing

    assert await book.find_key(DIGEST) is not None
    await book.aclose()


async def test_lock_that_is_never_released_makes_the_book_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
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


async def test_closed_book_says_so(book_url: str) -> None:
    book = await Book.open(book_url)
    await book.aclose()
    await book.aclose()

    with pytest.raises(BookUnavailable, match="closed"):
        await book.list_keys()


async def test_sqlite_url_names_the_file(tmp_path: Path) -> None:
    book = await Book.open(f"sqlite://{tmp_path}/my%20keys.db")

    assert (tmp_path / "my keys.db").is_file()
    await book.aclose()


async def test_commits_reach_the_disk_before_they_are_acknowledged(tmp_path: Path) -> None:
    book = await Book.open(tmp_path)

    synchronous = await book._read(lambda db: db.exec_driver_sql("PRAGMA synchronous").scalar())
    journal = await book._read(lambda db: db.exec_driver_sql("PRAGMA journal_mode").scalar())

    assert (synchronous, journal) == (2, "wal")
    await book.aclose()
