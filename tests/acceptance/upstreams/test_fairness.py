"""Keys share an upstream's places: one that asks for everything does not keep the others out."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.acceptance.recordings import recording
from tests.acceptance.upstreams.conftest import completion
from tests.patience import PATIENCE_SECONDS, within
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

ANSWER = recording("native/plain.answer").whole()
PLACES = 4
MADE_IN_SECONDS = 0.1
QUEUED = 200
ASKED = 20
_LIMITS = (
    "connect_timeout_seconds",
    "first_byte_timeout_seconds",
    "timeout_seconds",
    "queue_seconds",
)
MODEL = {"id": "m", "targets": [{"upstream": "a"}]}


async def make(visit: Visit) -> None:
    await asyncio.sleep(MADE_IN_SECONDS)
    await visit.send(ANSWER)


def upstream_of(first: Upstream, **options: Any) -> dict[str, Any]:
    patience = dict.fromkeys(_LIMITS, PATIENCE_SECONDS)
    return {"a": {"base_url": first.url, "max_concurrency": PLACES, **patience, **options}}


async def ask(client: httpx.AsyncClient) -> float:
    """Return how long an answer takes."""
    began = time.perf_counter()
    reply = await client.post("/completions", json=completion("m"))
    assert reply.status_code == 200, reply.text
    return time.perf_counter() - began


async def p95_seconds(client: httpx.AsyncClient) -> float:
    """Return the 95th percentile of a key that asks one thing after another."""
    spent = sorted([await ask(client) for _ in range(ASKED)])
    return spent[math.ceil(0.95 * len(spent)) - 1]


@asynccontextmanager
async def flooded(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Ask as many things at once as are to be queued, again and again."""

    async def ask_on() -> None:
        while True:
            await ask(client)

    flood = [asyncio.create_task(ask_on()) for _ in range(QUEUED)]
    try:
        yield
        for task in flood:
            assert not task.done(), task.exception()
    finally:
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)


async def test_two_hundred_queued_requests_of_one_key_do_not_double_anothers_p95(start, first):
    """The best of three rounds counts: a machine that is held up makes a round worse only."""
    first.play(make)
    gateway = await start(upstream_of(first), [MODEL])
    limits = httpx.Limits(max_connections=QUEUED)
    async with (
        gateway.client(await gateway.new_key()) as quiet,
        gateway.client(await gateway.new_key(), limits=limits) as noisy,
    ):
        alone = await p95_seconds(quiet)
        async with flooded(noisy):
            async with within(PATIENCE_SECONDS):
                for _ in range(ASKED + 2 * PLACES):  # then the flood has filled the queue
                    await first.arrival()
            beside = min([await p95_seconds(quiet) for _ in range(3)])
    print(f"p95 alone {alone * 1000:.0f} ms, beside {QUEUED} queued {beside * 1000:.0f} ms")
    assert beside <= 2 * alone
    assert first.most_at_once == PLACES


async def test_a_queue_that_takes_too_long_is_a_503_that_tells_when_to_come_back(start, first):
    release = asyncio.Event()

    async def hold(visit: Visit) -> None:
        await release.wait()
        await visit.send(ANSWER)

    first.play(hold)
    gateway = await start(upstream_of(first, max_concurrency=1, queue_seconds=0.1), [MODEL])
    async with gateway.client(await gateway.new_key()) as client:
        held = asyncio.create_task(ask(client))
        await first.arrival()
        reply = await client.post("/completions", json=completion("m"))
        release.set()
        await held
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "upstream_overloaded")
    assert reply.headers["retry-after"] == "1"
    assert len(first.visits) == 1
