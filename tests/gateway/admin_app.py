"""A gateway and the key of its admin."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from gateway.app import create_app
from gateway.book import Book
from gateway.ledger import Entry, Record
from tests.gateway.running import PEPPER, FakeUpstream, envelope, settings

ADMIN_KEY = "open sesame"
NOON_MS = 1_767_268_800_000  # 2026-01-01T12:00:00Z
HEADERS = {"authorization": f"Bearer {ADMIN_KEY}"}


@dataclass
class Admin:
    """The application, its book, and a client that holds the admin key."""

    app: Litestar
    book: Book
    client: httpx.AsyncClient

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the response to a request below `/admin`."""
        return await self.client.request(method, f"/admin{path}", **options)

    async def new_key(self, **fields: Any) -> dict[str, Any]:
        """Return what the making of a key answered."""
        answer = await self.ask("POST", "/keys", json={"name": "alice", **fields})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made


async def refusal(admin: Admin, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
    answer = await admin.ask(method, path, **options)
    error = envelope(answer.content)
    return answer.status_code, error["param"], error["code"]


@asynccontextmanager
async def administered(where: Path | str) -> AsyncIterator[Admin]:
    """Yield a gateway that is not started: the admin API works without."""
    book = await Book.open(where)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAGOMAN_ADMIN_KEY", ADMIN_KEY)
        app = create_app(settings(), book=book, pepper=PEPPER, transport=FakeUpstream())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=HEADERS)
        async with client:
            yield Admin(app, book, client)
    await book.aclose()


def entry(number: int, **fields: Any) -> Entry:
    """Return the ledger's entry of a request, a second after the one with the number before."""
    known = {
        "request_id": f"r{number:07}",
        "key_id": "k",
        "model": "m",
        "target": "t",
        "upstream": "u",
        "task": "chat",
        "input_tokens": 3,
        "output_tokens": 2,
        "nano_usd": 1_000,
    }
    record = Record(**known | fields)
    return Entry(at_ms=NOON_MS + 1000 * number, shard=0, entry=number, record=record)


async def fill(book: Book, data_dir: Path, count: int) -> None:
    """Put `count` records into the ledger, all like the first."""
    await book.add_entries([entry(0)])
    with closing(sqlite3.connect(data_dir / "book.sqlite3")) as db, db:
        names = [row[1] for row in db.execute("PRAGMA table_info(ledger)")]
        others = ", ".join(names[1:])
        assert names[0] == "request_id"
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            f"INSERT INTO ledger (request_id, {others}) "
            f"SELECT printf('s%07d', i), {others} FROM ledger, n",
            (count - 1,),
        )
