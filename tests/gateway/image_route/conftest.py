"""A gateway in front of the painter, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI

from gateway.config import Settings
from tests.gateway.image_route.painting import CREDENTIAL, DIALECTS, paint
from tests.gateway_fixture import Gateway, running_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream


@pytest.fixture(scope="package")
async def painter(anyio_backend: str) -> AsyncIterator[Upstream]:
    async with Upstream(paint) as upstream:
        yield upstream


@pytest.fixture(scope="package")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="package")
async def gateway(painter: Upstream, data_dir: Path) -> AsyncIterator[Gateway]:
    settings = Settings(
        server={"max_body_mb": 1},
        upstreams=[
            {
                "name": name,
                "dialect": name,
                "base_url": painter.url,
                "api_key_env": "PAINTER_KEY",
                "load_wait_seconds": 0,
            }
            for name in DIALECTS
        ],
        models=[
            {"id": f"{name}/painter", "task": "image", "targets": [{"upstream": name}]}
            for name in DIALECTS
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAINTER_KEY", CREDENTIAL)
        async with running_gateway(settings, data_dir) as running:
            yield running


@pytest.fixture
async def upstream(painter: Upstream) -> AsyncIterator[Upstream]:
    """What stands behind `gateway`, at rest."""
    painter.rest()
    yield painter
    painter.rest()


@pytest.fixture
async def sdk(gateway: Gateway, upstream: Upstream) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key=gateway.key, base_url=gateway.base_url, max_retries=0, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


@pytest.fixture
async def http_client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.base_url, headers=gateway.headers) as client:
        yield client
