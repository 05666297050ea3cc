"""A metered gateway in front of two upstreams, of which the first does what a test tells it to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from gateway.book import UsageFilter
from gateway.config import Settings
from tests.acceptance.recordings import Library
from tests.metered import Metered, metered_gateway
from tests.scripted_upstream import Upstream, Visit

NOWHERE = "http://127.0.0.1:9"
TIMES = {
    "connect_timeout_seconds": 1,
    "first_byte_timeout_seconds": 0.5,
    "timeout_seconds": 1.5,
    "load_wait_seconds": 0.5,
}

Start = Callable[..., Awaitable[Metered]]


@pytest.fixture(scope="session")
async def library(anyio_backend: str) -> Library:
    return Library()


@pytest.fixture(scope="session")
async def pair(library: Library) -> AsyncIterator[tuple[Upstream, Upstream]]:
    """Two upstreams that answer well until they are told otherwise."""
    async with Upstream(answering(library)) as first, Upstream(answering(library)) as second:
        yield first, second


@pytest.fixture
def first(pair: tuple[Upstream, Upstream]) -> Iterator[Upstream]:
    """One of them, at rest."""
    pair[0].rest()
    yield pair[0]
    pair[0].rest()


@pytest.fixture
def second(pair: tuple[Upstream, Upstream]) -> Iterator[Upstream]:
    """The other."""
    pair[1].rest()
    yield pair[1]
    pair[1].rest()


@asynccontextmanager
async def gateway_of(
    data_dir: Path,
    upstreams: dict[str, dict[str, Any]],
    models: list[dict[str, Any]],
    **more: Any,
) -> AsyncIterator[Metered]:
    """Run a gateway of these upstreams and models. Its counters and its ledger agree at the end.

    Nothing is cached.
    """
    settings = Settings.model_validate(
        {
            "upstreams": [
                {"name": name, "dialect": "hf", **TIMES, **options}
                for name, options in upstreams.items()
            ],
            "models": [{"price": PRICE, **model} for model in models],
            "cache": {"ttl_seconds": 0},
            **more,
        }
    )
    async with metered_gateway(settings, data_dir) as metered:
        yield metered
        await metered.until(metered.differences, lambda found: not found)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a gateway of one's own."""
    async with AsyncExitStack() as closing:

        async def begin(*args: Any, **options: Any) -> Metered:
            return await closing.enter_async_context(gateway_of(tmp_path, *args, **options))

        yield begin


async def record_of(gateway: Metered, reply: httpx.Response) -> Any:
    """Return the ledger's record of the request that `reply` answers."""
    request_id = reply.headers["x-request-id"]

    async def look() -> list[Any]:
        pages = gateway.book.usage_rows(UsageFilter())
        return [row async for page in pages for row in page if row["request_id"] == request_id]

    [record] = await gateway.until(look, bool)
    return SimpleNamespace(**record)


PRICE = {"input_usd_per_million": 1.0, "output_usd_per_million": 2.0}


def answering(library: Library) -> Callable[[Visit], Awaitable[None]]:
    """Return what plays the recording that fits, whatever the model's name."""

    async def answer(visit: Visit) -> None:
        visit.path = "/hf-inference/models/native/plain"
        await library(visit)

    return answer


def completion(model: str, *, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """Return a request. 9 tokens are the most that it may be answered with."""
    body = {"model": model, "prompt": "Hi", "max_tokens": 9, **fields}
    return body | {"stream": True} if stream else body
