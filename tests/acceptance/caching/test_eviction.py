"""A cache server that is short of room forgets answers, and nothing else is touched by it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gateway.cache.inventory import describe_server
from gateway.store import Store, Stores
from tests.acceptance.caching.cache_site import Site, open_site, settings_of
from tests.acceptance.caching.model import PATIENCE_SECONDS, USAGE, Model, ask, asking
from tests.acceptance.caching.served import hear_each_other, server_pair, store_at, until
from tests.gateway_fixture import Gateway, running_gateway
from tests.scripted_upstream import Upstream

pytestmark = pytest.mark.anyio

ROOM_MB = 8
MODEL = Model(pieces=8, size=16 * 1024)  # 128 KiB, of which compression leaves 98
REQUESTS = 320  # four times as many as there is room for
_LIMITS = ("--maxmemory", f"{ROOM_MB}mb", "--maxmemory-policy", "allkeys-lfu")


@pytest.fixture
async def upstream(anyio_backend: str) -> AsyncIterator[Upstream]:
    async with Upstream(MODEL) as upstream:
        yield upstream


async def test_eviction_touches_nothing_but_answers(upstream: Upstream, tmp_path: Path) -> None:
    async with open_site(upstream, tmp_path, *_LIMITS) as site:
        again = []
        for at in range(REQUESTS):
            prompt = f"prompt {at}"
            asked = await ask(site.client, prompt, stream=at % 2 == 1)
            assert asked.is_answer(MODEL.text(prompt))
            assert asked.cache == "miss"
            if at % 20 == 19:
                again.append((await ask(site.client, prompt)).cache)
        server = await describe_server(site.cache)
        assert server.evicted_keys > REQUESTS // 2
        assert server.used_bytes < 1.2 * ROOM_MB * 2**20
        assert len(upstream.visits) == REQUESTS + again.count("miss")
        # Most, not all: Valkey evicts by samples, what is made again evicts others, and a store
        # that is late for the machine's sake keeps nothing.
        assert again.count("miss") < len(again) / 2
        assert await _count_of_recent(site) >= 10
        await _check_state(site, REQUESTS + REQUESTS // 20 + 20)


async def _count_of_recent(site: Site) -> int:
    """Return how many of the last twenty answers are kept."""
    prompts = [f"prompt {at}" for at in range(REQUESTS - 20, REQUESTS)]
    answers = [await ask(site.client, prompt) for prompt in prompts]
    return sum(asked.cache == "hit" for asked in answers)


async def _check_state(site: Site, requests: int) -> None:
    """Check that the state store has lost nothing: counters, limits, ledger."""
    records = await site.metered.records(requests)
    assert len({record["request_id"] for record in records}) == len(records) == requests
    assert await site.metered.differences() == []
    assert (await describe_server(site.metered.state)).evicted_keys == 0
    made = sum(not record["cached"] for record in records)
    [limits] = await site.metered.state.call("KEYS", "use:*:key:*")
    tokens = sum(USAGE.values())
    assert int(await site.metered.state.call("HGET", limits, "d2")) == made * tokens


@asynccontextmanager
async def _two_gateways(
    upstream: Upstream, folder: Path
) -> AsyncIterator[tuple[Store, list[httpx.AsyncClient]]]:
    """Yield a cache store, and a client of each of two gateways that share by it."""
    settings = settings_of(upstream.url, scope="global")
    async with AsyncExitStack() as closing:
        state, cache = closing.enter_context(server_pair(folder, *_LIMITS))
        clients = []
        for name in ("a", "b"):
            stores = Stores(state_url=state.url, cache_url=cache.url)
            gateway = await closing.enter_async_context(
                running_gateway(settings, folder / name, stores=stores)
            )
            clients.append(await closing.enter_async_context(_client(gateway)))
        store = await closing.enter_async_context(store_at(cache.url))
        await hear_each_other(store, len(clients))
        yield store, clients


def _client(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=gateway.base_url,
        headers=gateway.headers,
        trust_env=False,
        timeout=PATIENCE_SECONDS,
        verify=False,  # certificates take long to load
    )


async def _fill(cache: Store) -> None:
    """Leave no room for what is to come."""
    data = os.urandom(64 * 1024)
    for at in range(ROOM_MB * 16 + 1):
        await cache.call("SET", f"filler:{at}", data)


async def test_answers_are_shared_and_right_while_others_are_evicted(
    upstream: Upstream, tmp_path: Path
) -> None:
    rounds, at_once, each = 40, 4, 3
    async with _two_gateways(upstream, tmp_path) as (cache, clients):
        await _fill(cache)
        before = (await describe_server(cache)).evicted_keys
        for start in range(0, rounds, at_once):
            async with AsyncExitStack() as closing:
                asked = {}
                for prompt in [f"prompt {at}" for at in range(start, start + at_once)]:
                    sending = asking(clients * each, prompt, stream=None)
                    asked[prompt] = await closing.enter_async_context(sending)
                await asyncio.gather(*(one.ends() for group in asked.values() for one in group))
            for prompt, group in asked.items():
                assert all(one.is_answer(MODEL.text(prompt)) for one in group)
        assert (await describe_server(cache)).evicted_keys - before > rounds
    # One for each six, more if a lock was evicted or the store was late.
    assert rounds <= len(upstream.visits) < 3 * rounds


@pytest.mark.parametrize("is_renewed", [True, False])
async def test_a_lock_that_is_evicted_costs_an_upstream_call_at_most(
    upstream: Upstream, tmp_path: Path, is_renewed: bool
) -> None:
    begin, go_on = asyncio.Event(), asyncio.Event()
    upstream.play(MODEL.held(begin, go_on))
    begin.set()
    async with _two_gateways(upstream, tmp_path) as (cache, clients):
        async with asking(clients[:1], "prompt", stream=True) as [early]:
            await early.begun()
            assert await cache.call("DEL", *await cache.call("KEYS", "flight:*")) == 1
            if is_renewed:
                await until(lambda: cache.call("KEYS", "flight:*"), bool)
            async with asking(clients[1:], "prompt", stream=True) as [late]:
                await late.begun()
                go_on.set()
                await asyncio.gather(early.ends(), late.ends())
        assert all(one.is_answer(MODEL.text("prompt")) for one in (early, late))
        assert len(upstream.visits) == (1 if is_renewed else 2)
        assert [(await ask(client, "prompt")).cache for client in clients] == ["hit", "hit"]
