"""Commands that reach the state store after the gateway has given up on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.store_site import Site, answer, ask, open_site
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio


@pytest.fixture
async def site(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with Upstream(answer) as upstream, open_site(upstream, tmp_path) as site:
        yield site


async def test_a_reservation_that_arrives_after_its_settlement_takes_nothing(site: Site) -> None:
    async with site.metered.client(await site.metered.new_key(concurrency=4)) as client:
        assert (await ask(client)).status_code == 200
        site.network.latency_seconds = 4.0
        assert (await ask(client)).headers["x-dragoman-degraded"] == "quota"
        await site.metered.records(2)
        await _arrive(site)
    await site.settled(2)


async def test_a_settlement_that_arrives_though_it_was_spooled_counts_once(site: Site) -> None:
    gate = asyncio.Event()

    async def hold(visit: Visit) -> None:
        await gate.wait()
        await answer(visit)

    async with site.metered.client(await site.metered.new_key(tokens_per_day=1000)) as client:
        assert (await ask(client)).status_code == 200  # so that the store knows the script
        await site.upstream.arrival()
        site.upstream.play(hold)
        asking = asyncio.create_task(ask(client))
        await site.upstream.arrival()
        site.network.latency_seconds = 0.8
        gate.set()
        assert (await asking).status_code == 200
        await _arrive(site)
    await site.settled(2)


async def _arrive(site: Site) -> None:
    """Wait until nothing is under way to the store."""

    async def under_way() -> int:
        return site.network.under_way

    await site.metered.until(under_way, lambda count: not count)
    site.network.latency_seconds = 0.0
