"""A whole gateway in this loop: real stores, a real upstream, and nobody who empties the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway import embedded
from gateway.app import create_app
from gateway.book import Book, KeyOptions
from gateway.config import Settings
from gateway.keys import digest, generate
from gateway.limits import Limits
from gateway.metrics import sampling
from gateway.metrics.metrics import Metrics
from gateway.store import Store, Stores
from gateway.writer import Writer
from tests.acceptance.metering import exchange_kinds
from tests.gateway.metrics.told import Told
from tests.gateway.running import PEPPER, serving
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Site:
    """`book`, `state` and `cache` are connections of the test's own."""

    client: httpx.AsyncClient
    upstream: Upstream
    book: Book
    state: Store
    cache: Store
    data_dir: Path
    pepper: bytes = PEPPER

    async def told(self) -> Told:
        """Return what `/metrics` tells now."""
        answer = await self.client.get("/metrics")
        assert answer.status_code == 200
        return Told.of(answer.text)

    async def until(self, is_it: Callable[[Told], bool]) -> Told:
        """Return what is told once it is as it should be."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_it(told := await self.told()):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(sampling.PERIOD_SECONDS)
        return told

    async def new_key(self, **limits: Any) -> str:
        """Return the text of a new key with these limits."""
        new = generate()
        options = KeyOptions(name="test", limits=Limits(**limits))
        await self.book.create_key(new.id, digest(new.text, self.pepper), options=options)
        return new.text


def settings_of(url: str) -> Json:
    """Return settings with a model for every kind of request, and upstreams for what they do."""
    raw = exchange_kinds.settings_of(url)
    for name, dialect, more in (
        ("narrow", "openai", {"max_concurrency": 1}),
        ("cold", "hf", {"load_wait_seconds": 30}),
    ):
        raw["upstreams"].append({"name": name, "dialect": dialect, "base_url": url, **more})
    raw["models"] += [
        {"id": "narrow/text", "targets": [{"upstream": "narrow"}]},
        {"id": "cold/image", "task": "image", "targets": [{"upstream": "cold"}]},
    ]
    return raw | {"cache": {}, "retries": {}, "metrics": {"per_key": True}}


@asynccontextmanager
async def site(data_dir: Path, upstream: Upstream) -> AsyncIterator[Site]:
    """Yield a gateway whose counters are known."""
    async with AsyncExitStack() as closing:
        pair = await embedded.start(data_dir)
        closing.push_async_callback(pair.stop)
        book = await Book.open(data_dir)
        closing.push_async_callback(book.aclose)
        state, cache = (
            Store(url, timeout_seconds=PATIENCE_SECONDS) for url in (pair.state_url, pair.cache_url)
        )
        closing.push_async_callback(state.aclose)
        closing.push_async_callback(cache.aclose)
        async with Writer(state, book, data_dir / "spool"):
            pass
        config = Settings.model_validate(settings_of(upstream.url))
        metrics = Metrics(config, worker="1")
        app = create_app(
            config,
            book=book,
            pepper=PEPPER,
            stores=Stores(
                state_url=pair.state_url,
                cache_url=pair.cache_url,
                on_latency=metrics.store_latency,
            ),
            data_dir=data_dir,
            metrics=metrics,
        )
        port = await closing.enter_async_context(serving(app))
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_SECONDS
        )
        made = Site(
            await closing.enter_async_context(client), upstream, book, state, cache, data_dir
        )
        client.headers["authorization"] = f"Bearer {await made.new_key()}"
        yield made
