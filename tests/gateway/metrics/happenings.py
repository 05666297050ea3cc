"""Something that moves each metric."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from gateway.spool import Spool
from gateway.store import Store
from tests.acceptance.metering.exchange_kinds import KINDS
from tests.gateway.image_route.painting import as_json, http, painted
from tests.gateway.metrics.site import Site
from tests.scripted_upstream import Visit

CHAT = "openai-chat"
SEEDED = {"seed": 1, "temperature": 0}
MEGABYTE = 1024 * 1024

Happening = Callable[[Site], AbstractAsyncContextManager[None]]
"""What happens; inside the context it can be seen."""


def asking(name: str, *, times: int = 1, **fields: Any) -> Happening:
    """Return the happening of an exchange of this kind."""

    @asynccontextmanager
    async def happen(site: Site) -> AsyncIterator[None]:
        kind = KINDS[name].having(**fields) if fields else KINDS[name]
        site.upstream.play(kind.at_once)
        for _ in range(times):
            answer = await site.client.post(f"/v1{kind.path}", **kind.request)
            assert answer.status_code == 200, answer.text
        yield

    return happen


def holding(model: str, count: int = 1, **fields: Any) -> Happening:
    """Return the happening of so many requests that the upstream does not answer yet."""

    @asynccontextmanager
    async def happen(site: Site) -> AsyncIterator[None]:
        kind = KINDS[CHAT].having(model=model, **fields)
        may_answer = asyncio.Event()

        async def hold(visit: Visit) -> None:
            await may_answer.wait()
            await visit.send(kind.at_once)

        site.upstream.play(hold)
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(site.client.post(f"/v1{kind.path}", **kind.request))
            yield
            may_answer.set()

    return happen


@asynccontextmanager
async def a_look_at_its_health(site: Site) -> AsyncIterator[None]:
    await site.client.get("/health")
    yield


@asynccontextmanager
async def an_unknown_model(site: Site) -> AsyncIterator[None]:
    request = KINDS[CHAT].having(model="nope").request
    assert (await site.client.post("/v1/chat/completions", **request)).status_code == 404
    yield


@asynccontextmanager
async def too_many_requests(site: Site) -> AsyncIterator[None]:
    site.upstream.play(KINDS[CHAT].at_once)
    headers = {"authorization": f"Bearer {await site.new_key(requests_per_day=1)}"}
    for status in (200, 429):
        answer = await site.client.post(
            "/v1/chat/completions", **KINDS[CHAT].request, headers=headers
        )
        assert answer.status_code == status
    yield


@asynccontextmanager
async def a_lost_connection(site: Site) -> AsyncIterator[None]:
    async def lose(visit: Visit) -> None:
        visit.reset()

    site.upstream.play(lose, KINDS[CHAT].at_once)
    answer = await site.client.post("/v1/chat/completions", **KINDS[CHAT].request)
    assert answer.status_code == 200
    yield


@asynccontextmanager
async def an_upstream_that_is_gone(site: Site) -> AsyncIterator[None]:
    request = KINDS[CHAT].having(model="gone/text").request
    for _ in range(3):
        await site.client.post("/v1/chat/completions", **request)
    yield


@asynccontextmanager
async def a_model_that_loads(site: Site) -> AsyncIterator[None]:
    loading = as_json({"error": "Model is currently loading", "estimated_time": 0.1}, status=503)
    site.upstream.play(loading, http(painted()))
    request = {"model": "cold/image", "prompt": "a fox"}
    answer = await site.client.post("/v1/images/generations", json=request)
    assert answer.status_code == 200, answer.text
    yield


@asynccontextmanager
async def a_value_that_was_damaged(site: Site) -> AsyncIterator[None]:
    ask = asking(CHAT, **SEEDED, top_p=0.5)
    async with ask(site):
        pass
    for key in await site.cache.call("KEYS", "*"):
        if await site.cache.call("TYPE", key) == b"string":
            await site.cache.call("SET", key, "damaged")
    async with ask(site):
        yield


@asynccontextmanager
async def a_fuller_cache(site: Site) -> AsyncIterator[None]:
    await site.cache.call("SET", "filling", bytes(MEGABYTE))
    yield
    await site.cache.call("DEL", "filling")


@asynccontextmanager
async def a_smaller_cache(site: Site) -> AsyncIterator[None]:
    _, limit = await site.cache.call("CONFIG", "GET", "maxmemory")
    await site.cache.call("CONFIG", "SET", "maxmemory", 8 * MEGABYTE)
    for at in range(12):
        await site.cache.call("SET", f"filling-{at}", bytes(MEGABYTE))
    yield
    await site.cache.call("CONFIG", "SET", "maxmemory", limit)


@asynccontextmanager
async def a_settlement_on_disk(site: Site) -> AsyncIterator[None]:
    spool = Spool(site.data_dir / "spool")
    await spool.put(b"{}")
    await spool.aclose()
    yield


@asynccontextmanager
async def a_store_that_hangs(site: Site) -> AsyncIterator[None]:
    pid = await process_of(site.cache)
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(4):
            async with asking(CHAT, **SEEDED)(site):
                pass
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def a_loop_that_is_held_up(site: Site) -> AsyncIterator[None]:
    time.sleep(1)  # noqa: ASYNC251 (that is what is to be seen)
    yield


@asynccontextmanager
async def more_memory(site: Site) -> AsyncIterator[None]:
    ballast = bytearray(64 * MEGABYTE)
    ballast[::4096] = b"x" * len(ballast[::4096])
    yield


@asynccontextmanager
async def more_files(site: Site) -> AsyncIterator[None]:
    async with AsyncExitStack() as closing:
        for _ in range(20):
            closing.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


async def process_of(store: Store) -> int:
    told = await store.call("INFO", "server")
    [line] = [line for line in told.decode().splitlines() if line.startswith("process_id:")]
    return int(line.removeprefix("process_id:"))


HAPPENINGS: dict[str, Happening] = {
    "gen_ai_server_request_duration_seconds": asking(CHAT),
    "gen_ai_server_time_to_first_token_seconds": asking("openai-chat-stream"),
    "gen_ai_server_time_per_output_token_seconds": asking("openai-chat-stream"),
    "gen_ai_client_operation_duration_seconds": asking(CHAT),
    "gen_ai_client_token_usage": asking(CHAT),
    "dragoman_http_requests_total": a_look_at_its_health,
    "dragoman_requests_total": asking(CHAT),
    "dragoman_errors_total": an_unknown_model,
    "dragoman_reservations_total": asking(CHAT),
    "dragoman_refusals_total": too_many_requests,
    "dragoman_images_total": asking("images"),
    "dragoman_characters_total": asking("speech"),
    "dragoman_audio_seconds_total": asking("transcription"),
    "dragoman_cost_nano_usd_total": asking(CHAT),
    "dragoman_cache_requests_total": asking(CHAT, **SEEDED, times=2),
    "dragoman_cache_errors_total": a_value_that_was_damaged,
    "dragoman_cache_used_bytes": a_fuller_cache,
    "dragoman_cache_max_bytes": a_smaller_cache,
    "dragoman_cache_evicted_total": a_smaller_cache,
    "dragoman_retries_total": a_lost_connection,
    "dragoman_upstream_calls_total": asking(CHAT),
    "dragoman_upstream_available": an_upstream_that_is_gone,
    "dragoman_upstream_in_flight": holding("openai/text"),
    "dragoman_queue_length": holding("narrow/text", 2),
    "dragoman_model_loading_seconds": a_model_that_loads,
    "dragoman_requests_in_flight": holding("openai/text"),
    "dragoman_oldest_request_seconds": holding("openai/text"),
    "dragoman_leases_open": holding("openai/text"),
    "dragoman_ledger_lag_records": asking(CHAT),
    "dragoman_ledger_lag_seconds": asking(CHAT),
    "dragoman_spool_bytes": a_settlement_on_disk,
    "dragoman_store_duration_seconds": asking(CHAT),
    "dragoman_store_available": a_store_that_hangs,
    "dragoman_event_loop_lag_seconds": a_loop_that_is_held_up,
    "dragoman_resident_memory_bytes": more_memory,
    "dragoman_open_files": more_files,
    "dragoman_tasks": holding("openai/text"),
    "dragoman_key_requests_total": asking(CHAT),
    "dragoman_key_cost_nano_usd_total": asking(CHAT),
    "dragoman_key_tokens_total": asking(CHAT),
}
FALLING = {
    "dragoman_cache_max_bytes",
    "dragoman_store_available",
    "dragoman_upstream_available",
}
