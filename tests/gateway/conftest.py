"""Servers that tests of the gateway share."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.book import Book
from tests.cluster import cluster as cluster
from tests.cluster import harmed as harmed
from tests.gateway.state_server import RealServer, program
from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer, postgres_server

TEMPLATE = "migrated"


@pytest.fixture(autouse=True)
def unhurried_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's writer waits for its counters, and moves what is left, however long it takes."""
    monkeypatch.setattr("gateway.writer._START_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr("gateway.writer._END_SECONDS", PATIENCE_SECONDS)


@dataclass
class Clock:
    """Tells Unix seconds, as the test likes."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def book(book_url: str, clock: Clock) -> AsyncIterator[Book]:
    """An empty book, once of each kind, with a clock that stands still."""
    opened = await Book.open(book_url, clock=clock)
    yield opened
    await opened.aclose()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealServer]:
    """An empty Valkey, which may be hung or killed."""
    server = RealServer(program("valkey"), tmp_path)
    yield server
    server.go_on()
    server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server with the database `migrated`, which holds an empty book."""
    with postgres_server() as server:
        server.execute(f"CREATE DATABASE {TEMPLATE}")
        asyncio.run(_make_book(server.url(TEMPLATE)))
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty book."""
    name = postgres.create_database(TEMPLATE)
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that holds an empty book."""
    path = tmp_path_factory.mktemp("empty") / "book.sqlite3"
    asyncio.run(_make_book(f"sqlite://{path}"))
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def book_url(request: pytest.FixtureRequest, tmp_path: Path, empty_file: Path) -> str:
    """The URL of an empty book, once of each kind."""
    if request.param == "sqlite":
        shutil.copy(empty_file, tmp_path)
        return f"sqlite://{tmp_path / empty_file.name}"
    url: str = request.getfixturevalue("postgres_url")
    return url


async def _make_book(url: str) -> None:
    await (await Book.open(url)).aclose()
