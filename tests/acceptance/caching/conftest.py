"""Metered gateways with a cache, all in front of one upstream that plays what it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest

from gateway import store
from gateway.cache import flights
from gateway.config import Settings
from gateway.store import Store
from tests.acceptance.metering.conftest import attentive, player, upstream
from tests.acceptance.metering.customer import Customer, counting
from tests.acceptance.metering.exchange_kinds import Json, settings_of
from tests.metered import Metered, metered_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream

__all__ = ["attentive", "player", "upstream"]

StartGateway = Callable[..., Awaitable[Metered]]


@pytest.fixture(scope="package")
async def gateways(
    player: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[StartGateway]:
    """Start gateways. Counters and ledger of each must agree when all tests have had it."""
    running: dict[str, Metered] = {}
    async with AsyncExitStack() as closing:

        async def start(**cache: Any) -> Metered:
            name = json.dumps(cache, sort_keys=True)
            if name not in running:
                folder = tmp_path_factory.mktemp("gateway")
                gateway = metered_gateway(_settings(player.url, cache), folder)
                with _patient_stores():
                    running[name] = await closing.enter_async_context(gateway)
                await _ready(running[name])
            return running[name]

        yield start
        for metered in running.values():
            assert await metered.differences() == []


@pytest.fixture
def gateway_with(gateways: StartGateway, monkeypatch: pytest.MonkeyPatch) -> StartGateway:
    """Return a gateway with these settings of the cache, which tests that want the same share.

    What is whole is kept before a client sees its end, however busy the machine.
    """
    monkeypatch.setattr(flights, "_STORING_SECONDS", PATIENCE_SECONDS)
    return gateways


@contextmanager
def _patient_stores() -> Iterator[None]:
    """Let no busy store be taken for a lost one by gateways that start meanwhile."""
    patient = {**(Store.__init__.__kwdefaults__ or {}), "timeout_seconds": 10.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store.__init__, "__kwdefaults__", patient)
        patch.setattr(store, "_CACHE_PATIENCE_SECONDS", 10.0)
        yield


@pytest.fixture
async def metered(gateway_with: StartGateway) -> Metered:
    """A gateway whose cache is as it comes."""
    return await gateway_with()


@pytest.fixture
async def customer(metered: Metered) -> Customer:
    """A key that nobody has used before: nothing is kept for it yet."""
    return await Customer.of(metered)


def _settings(url: str, cache: Json) -> Settings:
    given = settings_of(url) | {"cache": cache}
    further: list[Json] = [
        {"id": "openai/fleeting", "cache_ttl_seconds": 1},
        {"id": "openai/never-kept", "cache_ttl_seconds": 0},
        {"id": "openai/other", "aliases": ["alias"]},
    ]
    given["models"] += [one | {"targets": [{"upstream": "openai"}]} for one in further]
    return Settings.model_validate(given)


async def _ready(metered: Metered) -> None:
    """Wait until it counts, and its templates are loaded."""
    await counting(metered)
    url = metered.base_url.removesuffix("/v1") + "/ready"
    async with metered.client("no key is needed", verify=False) as client:
        await metered.until(lambda: client.get(url), lambda answer: answer.status_code == 200)
