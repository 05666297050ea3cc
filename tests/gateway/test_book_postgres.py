import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.book import (
    Book,
    BookUnavailable,
    KeyOptions,
    UnsupportedBook,
    UsageFilter,
)
from gateway.book import (
    postgres as postgres_module,
)
from gateway.book.address import PostgresAddress, SqliteAddress, parse_address
from tests.gateway.conftest import TEMPLATE
from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer

pytestmark = pytest.mark.anyio

ALICE = KeyOptions(name="alice")


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The name of a database with an empty book."""
    name = postgres.create_database(TEMPLATE)
    yield name
    postgres.drop_database(name)


def address(url: str, **env: str) -> PostgresAddress:
    found = parse_address(url, env=env)
    assert isinstance(found, PostgresAddress)
    return found


def test_url_is_taken_apart() -> None:
    found = address("postgres://me:p%2Fw%40@db.example:6432/my%20book?sslmode=require")

    assert (found.host, found.port, found.database) == ("db.example", 6432, "my book")
    assert (found.user, found.password, found.ssl_mode) == ("me", "p/w@", "require")


def test_what_a_url_leaves_out_is_as_usual() -> None:
    found = address("postgresql://me@db", PGPASSWORD="secret")

    assert (found.port, found.database, found.password) == (5432, "me", "secret")
    assert (found.ssl_mode, found.ssl_root_cert) == ("prefer", None)
    assert address("postgresql:///book?host=/run/postgresql").host == "/run/postgresql"


def test_sqlite_is_a_file_or_a_data_directory() -> None:
    assert parse_address("sqlite:///a/b%20c.db") == SqliteAddress(Path("/a/b c.db"))
    assert parse_address(Path("/data")) == SqliteAddress(Path("/data/book.sqlite3"))


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://me:hunter2@db/book", "mysql"),
        ("sqlite://me:hunter2@db/book", "sqlite"),
        ("postgresql://me:hunter2/x@db/book", "%2F"),
        ("postgresql://me:hunter2@db:port/book", "port"),
        ("postgresql://me:hunter2@db/book?sslmode=maybe", "maybe"),
        ("postgresql://me:hunter2@db/book?target_session_attrs=any", "target_session_attrs"),
    ],
)
async def test_url_that_cannot_be_used_is_refused_without_its_password(
    url: str, named: str
) -> None:
    with pytest.raises(UnsupportedBook, match=named) as caught:
        await Book.open(url)

    assert "hunter2" not in str(caught.value)


async def test_password_is_in_no_error(postgres: PostgresServer) -> None:
    with pytest.raises(BookUnavailable, match="nowhere") as caught:
        await Book.open(postgres.url("nowhere"))

    assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"


async def test_book_is_reached_through_a_unix_socket(
    postgres: PostgresServer, database: str
) -> None:
    folder = postgres.folder
    book = await Book.open(f"postgresql://dragoman@:{postgres.port}/{database}?host={folder}")

    assert await book.list_keys() == []
    await book.aclose()


@pytest.mark.parametrize(
    ("mode", "is_encrypted"), [("disable", False), ("prefer", True), ("require", True)]
)
async def test_connection_is_encrypted_as_asked(
    postgres: PostgresServer, database: str, mode: str, is_encrypted: bool
) -> None:
    if postgres.certificate is None:
        pytest.skip("no openssl program to make a certificate with")
    book = await Book.open(postgres.url(database, options=f"?sslmode={mode}"))

    query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert await book._read(lambda db: db.exec_driver_sql(query).scalar()) is is_encrypted
    await book.aclose()


async def test_server_is_verified_by_its_certificate_and_its_name(
    postgres: PostgresServer, database: str
) -> None:
    if postgres.certificate is None:
        pytest.skip("no openssl program to make a certificate with")
    verify = "?sslmode=verify-full"
    known = f"{verify}&sslrootcert={postgres.certificate}"
    by_address = postgres.url(database, options=known)
    by_name = by_address.replace("127.0.0.1", "localhost")

    with pytest.raises(BookUnavailable, match="self-signed"):
        await Book.open(postgres.url(database, options=verify))
    with pytest.raises(BookUnavailable, match=r"127\.0\.0\.1"):
        await Book.open(by_address)
    await (await Book.open(by_name)).aclose()


async def test_server_without_tls_is_refused_where_it_is_required() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        opening = asyncio.create_task(
            Book.open(f"postgresql://me:hunter2@127.0.0.1:{port}/book?sslmode=require")
        )
        peer, _ = await asyncio.to_thread(listener.accept)
        with peer:
            assert await asyncio.to_thread(peer.recv, 8) == bytes.fromhex("0000000804d2162f")
            peer.sendall(b"N")
            assert await asyncio.to_thread(peer.recv, 1) == b""

        with pytest.raises(BookUnavailable, match="refuses TLS") as caught:
            await opening
    assert "hunter2" not in str(caught.value)


async def test_something_else_behind_the_port_is_told() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        opening = asyncio.create_task(Book.open(f"postgresql://me@127.0.0.1:{port}/book"))
        peer, _ = await asyncio.to_thread(listener.accept)
        with peer:
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with pytest.raises(BookUnavailable, match="does not speak PostgreSQL"):
            await opening


async def test_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "CONNECT_SECONDS", 0.1)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BookUnavailable, match="timed out"):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await Book.open(f"postgresql://me@127.0.0.1:{port}/book")


async def test_statement_that_takes_too_long_is_given_up_unless_it_is_an_export(
    database: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "STATEMENT_SECONDS", 1.0)
    book = await Book.open(postgres.url(database))
    sleep = text("SELECT 1 AS slept FROM pg_sleep(1.5)")

    with pytest.raises(BookUnavailable, match="statement timeout"):
        await book._read(lambda db: db.execute(sleep).all())

    assert await book.list_keys() == []
    assert [batch async for batch in book._stream(sleep, dict)] == [[{"slept": 1}]]
    await book.aclose()


async def test_server_that_hangs_is_given_up_and_used_again_once_it_moves(
    database: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "STATEMENT_SECONDS", 0.1)
    monkeypatch.setattr(postgres_module, "_NETWORK_SECONDS", 0.1)
    monkeypatch.setattr(postgres_module, "CONNECT_SECONDS", 0.1)
    book = await Book.open(postgres.url(database, options="?sslmode=disable"))
    postgres.pause()
    try:
        with pytest.raises(BookUnavailable, match="timed out"):
            await book.create_key("abc", b"d", options=ALICE)
    finally:
        postgres.resume()

    monkeypatch.undo()
    await book.create_key("abc", b"d", options=ALICE)
    assert [key.id for key in await book.list_keys()] == ["abc"]
    await book.aclose()


async def test_server_that_is_gone_makes_the_book_unavailable_until_it_is_back(
    postgres: PostgresServer, database: str
) -> None:
    book = await Book.open(postgres.url(database))
    await book.create_key("abc", b"d", options=ALICE)
    postgres.stop()
    try:
        for _ in range(2):
            with pytest.raises(BookUnavailable, match=f"{postgres.port}/{database}"):
                await book.find_key(b"d")
        with pytest.raises(BookUnavailable):
            await book.revoke_key("abc")
        with pytest.raises(BookUnavailable):
            await anext(book.usage_rows(UsageFilter()))
    finally:
        postgres.start()

    assert await book.find_key(b"d") is not None
    assert await book.revoke_key("abc")
    await book.aclose()


async def test_restart_while_nothing_was_asked_goes_unnoticed(
    postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.book.connection._TRUSTED_SECONDS", 0)
    book = await Book.open(postgres.url(database))
    postgres.stop()
    postgres.start()

    await book.create_key("abc", b"d", options=ALICE)

    assert [key.id for key in await book.list_keys()] == ["abc"]
    await book.aclose()


async def test_connection_to_a_server_that_is_gone_is_dropped_in_silence(
    postgres: PostgresServer, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked, idle = [await Book.open(postgres.url(database)) for _ in range(2)]
    postgres.stop()
    try:
        with pytest.raises(BookUnavailable):
            await asked.find_key(b"d")
        await asked.aclose()
        await idle.aclose()
    finally:
        postgres.start()

    assert caplog.records == []
