"""Clients that repeat a 503 at once: held until the time that they were told, and fed nothing."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.acceptance.caching.cache_site import settings_of
from tests.acceptance.events import chat
from tests.acceptance.recordings import recording
from tests.acceptance.test_cold_start import loading
from tests.metered import metered_gateway
from tests.patience import Stopwatch

pytestmark = pytest.mark.anyio

IMPATIENT = {"x-wait-for-model": "0"}


async def hurry(client: httpx.AsyncClient, seconds: float) -> int:
    """Repeat a request at once, as huggingface.js does; return how often it was answered."""
    answered = 0
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        await client.post("/chat/completions", json=chat("m"), headers=IMPATIENT)
        answered += 1
    return answered


async def test_a_client_in_a_hurry_is_slowed_down_and_nobody_else(upstream, tmp_path):
    upstream.play(loading(2))
    async with metered_gateway(settings_of(upstream.url), tmp_path) as metered:
        hasty, other = await metered.new_key(), await metered.new_key()
        async with metered.client(hasty, verify=False) as client:
            hurrying = asyncio.create_task(hurry(client, 5))
            await upstream.arrival()
            async with metered.client(other, verify=False) as patient, Stopwatch() as watch:
                await patient.post("/chat/completions", json=chat("m"), headers=IMPATIENT)
            assert watch.seconds < 1
            assert await hurrying <= 6
        assert len(upstream.visits) <= 7


async def test_a_client_that_leaves_while_it_is_held_leaves_nothing_behind(upstream, tmp_path):
    upstream.play(loading(20), loading(20), recording("openai/vllm.answer").whole())
    async with metered_gateway(settings_of(upstream.url), tmp_path) as metered:
        key = await metered.new_key(requests_per_day=10)
        async with metered.client(key, verify=False) as client:
            for _ in range(2):  # the second is no haste yet
                await client.post("/chat/completions", json=chat("m"), headers=IMPATIENT)
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/chat/completions", json=chat("m"), timeout=1)
        assert len(await metered.records(2)) == 2
        assert await metered.state.call("KEYS", "leases:*") == []
        assert len(upstream.visits) == 2
