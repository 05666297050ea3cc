"""A metered gateway: real stores, a real book, and the writer between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway import embedded
from gateway.book import Book, KeyOptions, UsageFilter
from gateway.config import Settings
from gateway.keys import digest, generate
from gateway.limits import Limits
from gateway.reconcile import Difference, reconcile
from gateway.spool import FOLDER
from gateway.store import Store, Stores
from gateway.writer import Writer
from tests.gateway_fixture import PEPPER, running_gateway
from tests.patience import PATIENCE_SECONDS


@dataclass(frozen=True, slots=True)
class Metered:
    """A gateway with its book and its stores. `state_socket`: where the state store listens."""

    base_url: str
    book: Book
    stores: embedded.Stores
    state: Store
    settings: Settings
    data_dir: Path

    async def new_key(self, *, team: str | None = None, **limits: Any) -> str:
        """Return the text of a new key with these limits."""
        new = generate()
        await self.book.create_key(
            new.id,
            digest(new.text, PEPPER),
            options=KeyOptions(name="test", team=team, limits=Limits(**limits)),
            make_team=True,
        )
        return new.text

    def client(self, key: str, **options: Any) -> httpx.AsyncClient:
        """Return a client that shows `key`."""
        headers = {"authorization": f"Bearer {key}"}
        return httpx.AsyncClient(
            base_url=self.base_url,
            headers=headers,
            trust_env=False,
            timeout=PATIENCE_SECONDS,
            **options,
        )

    async def records(self, count: int) -> list[Any]:
        """Wait until the book has `count` records; return all of them, the oldest first."""
        return await self.until(self._records, lambda found: len(found) >= count)

    async def until(self, look: Callable[[], Any], is_it: Callable[[Any], bool]) -> Any:
        """Return what `look` returns once it is as it should be."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_it(found := await look()):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.02)
        return found

    async def differences(self) -> list[Difference]:
        """Return where counters and ledger do not agree."""
        return await reconcile(self.settings, self.data_dir, self.book)

    async def _records(self) -> list[Any]:
        return [row async for page in self.book.usage_rows(UsageFilter()) for row in page]


@asynccontextmanager
async def metered_gateway(
    settings: Settings,
    data_dir: Path,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    state_url: str | None = None,
    cache_url: str | None = None,
) -> AsyncIterator[Metered]:
    """Run a gateway and all that it stands on. The URLs: what it reaches its stores by."""
    async with AsyncExitStack() as closing:
        pair = await embedded.start(data_dir)
        closing.push_async_callback(pair.stop)
        book = await Book.open(data_dir)
        closing.push_async_callback(book.aclose)
        state = Store(pair.state_url, timeout_seconds=5)
        closing.push_async_callback(state.aclose)
        await closing.enter_async_context(Writer(state, book, data_dir / FOLDER))
        stores = Stores(
            state_url=state_url or pair.state_url, cache_url=cache_url or pair.cache_url
        )
        gateway = await closing.enter_async_context(
            running_gateway(settings, data_dir, transport=transport, stores=stores)
        )
        yield Metered(gateway.base_url, book, pair, state, settings, data_dir)
