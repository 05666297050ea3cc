"""A metered gateway of all kinds of models, in front of an upstream that plays what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import pytest

from gateway import wire
from gateway.config import Settings
from gateway.store import Store
from tests.acceptance.metering.customer import counting
from tests.acceptance.metering.exchange_kinds import settings_of
from tests.acceptance.metering.pace import Pace, Witness
from tests.metered import Metered, metered_gateway
from tests.scripted_upstream import Upstream, Visit


async def unwanted(visit: Visit) -> None:
    raise AssertionError(f"nothing may reach the upstream, but {visit.raw!r} did")


@pytest.fixture(scope="package")
async def player(anyio_backend: str) -> AsyncIterator[Upstream]:
    async with Upstream(unwanted) as upstream:
        yield upstream


@pytest.fixture(scope="package")
async def witness(anyio_backend: str) -> Witness:
    return Witness()


@pytest.fixture(autouse=True)
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway notices soon that a client has left."""
    monkeypatch.setattr(wire, "_NOTICE_SECONDS", 0.02)


@pytest.fixture(scope="package")
async def metered(
    player: Upstream, witness: Witness, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Metered]:
    """A gateway of all kinds. Counters and ledger must agree when all tests have had it.

    It takes no busy store for a lost one. Its `state` is a connection that the writer does not
    use.
    """
    settings = Settings.model_validate(settings_of(player.url))
    folder = tmp_path_factory.mktemp("gateway")
    defaults = Store.__init__.__kwdefaults__ or {}
    patient = {**defaults, "timeout_seconds": 10.0}
    async with AsyncExitStack() as closing:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store.__init__, "__kwdefaults__", patient)
            running = await closing.enter_async_context(
                metered_gateway(settings, folder, transport=witness)
            )
        await counting(running)
        await running.until(partial(_readiness, running), lambda status: status == 200)
        state = Store(running.stores.state_url)
        yield replace(running, state=state)
        await state.aclose()
        assert await running.differences() == []


async def _readiness(metered: Metered) -> int:
    """Return the status of `/ready`, which is 200 once the templates are loaded."""
    async with metered.client("no key is needed") as client:
        return (await client.get(metered.base_url.removesuffix("/v1") + "/ready")).status_code


@pytest.fixture
async def upstream(player: Upstream) -> AsyncIterator[Upstream]:
    player.rest()
    yield player
    player.rest()


@pytest.fixture
def pace(upstream: Upstream, witness: Witness) -> Pace:
    return Pace(upstream, witness)
