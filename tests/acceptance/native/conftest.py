"""A metered gateway with native routes, in front of a scripted upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from gateway.config import Settings
from tests.metered import Metered, metered_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit

Recorded = Callable[[httpx.Response], Awaitable[dict[str, Any]]]


async def no_part(visit: Visit) -> None:
    """Answer what no test has a part for."""
    await visit.send(b"HTTP/1.1 500 no part\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture(scope="module")
async def native_upstream(anyio_backend: str) -> AsyncIterator[Upstream]:
    async with Upstream(no_part) as upstream:
        yield upstream


@pytest.fixture
async def upstream(native_upstream: Upstream) -> AsyncIterator[Upstream]:
    """What stands behind `gateway`, at rest."""
    native_upstream.rest()
    yield native_upstream
    native_upstream.rest()


@pytest.fixture(scope="module")
async def gateway(
    anyio_backend: str, native_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Metered]:
    """A gateway with a model for each task, and texts at servers of three dialects."""
    settings = _settings(native_upstream.url)
    async with metered_gateway(settings, tmp_path_factory.mktemp("native")) as running:
        yield running


@pytest.fixture
async def client(gateway: Metered, upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    """A plain client with a key of its own, at the root of the gateway."""
    headers = {"authorization": f"Bearer {await gateway.new_key(team='red')}"}
    base_url = gateway.base_url.removesuffix("/v1")
    async with httpx.AsyncClient(
        base_url=base_url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False
    ) as http:
        yield http


@pytest.fixture
def recorded(gateway: Metered) -> Recorded:
    """Return what waits for the ledger's record of a request, given its answer."""

    async def find(answer: httpx.Response) -> dict[str, Any]:
        request_id = answer.headers["x-request-id"]

        async def look() -> list[dict[str, Any]]:
            return [row for row in await gateway.records(0) if row["request_id"] == request_id]

        [row] = await gateway.until(look, bool)
        return row

    return find


def _settings(url: str) -> Settings:
    def model(name: str, upstream: str, **options: Any) -> dict[str, Any]:
        return {"id": name, "targets": [{"upstream": upstream, "model": "up/stream"}], **options}

    openai = {"upstream": "openai", "priority": 1}
    upstreams = [
        {"name": "hf", "dialect": "hf", "base_url": f"{url}/hf", "load_wait_seconds": 1},
        {"name": "tgi", "dialect": "tgi", "base_url": f"{url}/tgi"},
        {"name": "tei", "dialect": "tei", "base_url": f"{url}/tei"},
        {"name": "openai", "dialect": "openai", "base_url": f"{url}/v1"},
    ]
    models = [
        model("org/text", "hf", aliases=["gpt2"], context_length=4096),
        model("org/tgi", "tgi"),
        model("org/picture", "hf", task="image"),
        model("org/sound", "hf", task="speech"),
        model("org/vector", "hf", task="embedding"),
        model("org/tei", "tei", task="embedding"),
        model("org/ears", "hf", task="transcription"),
        model("org/either", "hf", targets=[{"upstream": "hf", "priority": 0}, openai]),
        model("org/gone", "hf"),
        model("org/masked", "hf", task="pipeline"),
        model("open/masked", "openai", task="pipeline"),
        model("open/text", "openai", max_tokens_default=77),
        model("open/picture", "openai", task="image"),
        model("open/sound", "openai", task="speech"),
        model("open/vector", "openai", task="embedding"),
        model("open/ears", "openai", task="transcription"),
    ]
    given = {"upstreams": upstreams, "models": models, "server": {"max_body_mb": 1}}
    return Settings.model_validate(given)
