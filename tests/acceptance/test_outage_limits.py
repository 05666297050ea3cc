"""What may be overdrawn while the state store is away: nothing that the worker knew of."""

from __future__ import annotations

import asyncio
import base64
import io
import time
import wave
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from gateway.keys import parse
from tests.acceptance.store_site import (
    ANSWER,
    IN_TOKENS,
    OUT_TOKENS,
    Site,
    answer,
    ask,
    open_site,
    refused,
)
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

WORKERS = 2
PART = 0.5 / WORKERS  # of each limit
REQUESTS = 40  # more than any of the limits below leaves room for
WORDS = "Ten signs."


@pytest.fixture
async def upstream(anyio_backend: str) -> AsyncIterator[Upstream]:
    async with Upstream(answer) as upstream:
        yield upstream


@pytest.fixture
async def site(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Site]:
    transport = httpx.MockTransport(_answer_anything)
    async with open_site(upstream, tmp_path, transport=transport, expected_workers=WORKERS) as site:
        yield site


def _answer_anything(request: httpx.Request) -> httpx.Response:
    match request.url.path.rsplit("/", 1)[-1]:
        case "generations":
            return httpx.Response(200, json={"data": [{"b64_json": _picture()}]})
        case "speech":
            return httpx.Response(200, content=_sound(), headers={"content-type": "audio/wav"})
        case "transcriptions":
            return httpx.Response(200, json={"text": WORDS})
        case _:
            return httpx.Response(200, json=ANSWER)


def _picture() -> str:
    data = io.BytesIO()
    Image.new("RGB", (256, 256)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def _sound() -> bytes:
    """Return one second."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(32_000))
    return data.getvalue()


async def _paint(client: httpx.AsyncClient) -> httpx.Response:
    body = {"model": "picture", "prompt": "A fig", "size": "256x256"}
    return await client.post("/images/generations", json=body)


async def _speak(client: httpx.AsyncClient) -> httpx.Response:
    body = {"model": "voice", "input": WORDS, "voice": "alloy", "response_format": "wav"}
    return await client.post("/audio/speech", json=body)


async def _hear(client: httpx.AsyncClient) -> httpx.Response:
    files = {"file": ("sound.wav", _sound())}
    return await client.post("/audio/transcriptions", data={"model": "ear"}, files=files)


Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
# Limit → its value, how it is used up, and how much of it a record says was used.
BUDGETS: dict[str, tuple[Any, Ask, Callable[[dict[str, Any]], int]]] = {
    "requests_per_day": (41, ask, lambda row: 1),
    "tokens_per_day": (700, ask, lambda row: row["input_tokens"] + row["output_tokens"]),
    "images_per_day": (21, _paint, lambda row: row["images"]),
    "speech_characters_per_day": (210, _speak, lambda row: row["characters"]),
    "audio_seconds_per_day": (41, _hear, lambda row: row["audio_ms"]),
    "usd_per_month": (Decimal("0.002"), ask, lambda row: row["nano_usd"]),
}
UNITS = {"audio_seconds_per_day": 1000, "usd_per_month": 10**9}


async def test_a_worker_uses_no_more_than_its_part_of_what_it_knew_to_be_left(site: Site) -> None:
    async with AsyncExitStack() as closing:
        clients = await _clients(
            site, closing, {name: {name: BUDGETS[name][0]} for name in BUDGETS}
        )
        for limit, client in clients.items():
            await site.metered.until(partial(BUDGETS[limit][1], client), _is_admitted)
        known = {record["request_id"] for record in await site.settled(len(BUDGETS))}
        async with refused(site):
            admitted = await asyncio.gather(
                *(
                    _hammer(client, BUDGETS[limit][1], code="insufficient_quota")
                    for limit, client in clients.items()
                )
            )
    records = await site.settled(len(BUDGETS) + sum(admitted))
    for limit, client in clients.items():
        value, _, used_by = BUDGETS[limit]
        mine = [record for record in records if record["key_id"] == _id_of(client)]
        left = int(value * UNITS.get(limit, 1))
        left -= sum(used_by(record) for record in mine if record["request_id"] in known)
        used = sum(used_by(record) for record in mine if record["request_id"] not in known)
        assert 0 < used <= left * PART, limit


async def test_a_refusal_by_the_store_tells_what_is_left_too(site: Site) -> None:
    async with site.metered.client(await site.metered.new_key(requests_per_day=41)) as client:
        assert (await ask(client)).status_code == 200
        [use] = await site.metered.state.call("KEYS", "use:*")
        await site.metered.state.call("HSET", use, "d1", 41)  # as other workers would
        assert "x-dragoman-degraded" not in (await ask(client)).headers
        async with refused(site):
            assert not await _hammer(client, ask, code="insufficient_quota")


async def test_a_teams_budget_is_shared_by_its_keys(site: Site) -> None:
    keys = [await site.metered.new_key(team="t") for _ in range(3)]
    await site.metered.book.update_team("t", {"limits": {"requests_per_day": 43}}, actor="test")
    clients = [site.metered.client(key) for key in keys]
    for client in clients:
        assert (await ask(client)).headers["x-ratelimit-limit-requests"] == "43"
    async with refused(site):
        admitted = [await _hammer(one, ask, code="insufficient_quota") for one in clients]
    for client in clients:
        await client.aclose()
    assert sum(admitted) == 40 * PART
    await site.settled(3 + sum(admitted))


async def test_a_budget_of_which_the_worker_never_heard_admits_nothing(site: Site) -> None:
    async with AsyncExitStack() as closing, refused(site):
        clients = await _clients(
            site, closing, {name: {name: BUDGETS[name][0]} for name in BUDGETS}
        )
        for limit, client in clients.items():
            assert not await _hammer(client, BUDGETS[limit][1], code="insufficient_quota"), limit


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_rate_admits_no_more_than_the_workers_part_of_it(
    site: Site, is_known: bool
) -> None:
    limits = {"rpm": {"rpm": 60}, "tpm": {"tpm": 1200}}
    at_once = {"rpm": 60 / 6 * PART, "tpm": 60}  # one chat may use 60 tokens, a few less in truth
    async with AsyncExitStack() as closing:
        clients = await _clients(site, closing, limits)
        if is_known:
            for client in clients.values():
                assert (await ask(client)).status_code == 200
        async with refused(site):
            began = time.monotonic()
            admitted = {
                limit: await _hammer(client, ask, code="rate_limit_exceeded")
                for limit, client in clients.items()
            }
            minutes = (time.monotonic() - began) / 60
    await site.settled(len(limits) * is_known + sum(admitted.values()))
    used = {"rpm": admitted["rpm"], "tpm": admitted["tpm"] * (IN_TOKENS + OUT_TOKENS)}
    for limit, most_at_once in at_once.items():
        assert 0 < used[limit] <= most_at_once + limits[limit][limit] * PART * minutes, limit


async def test_concurrency_counts_what_the_store_had_admitted(
    upstream: Upstream, tmp_path: Path
) -> None:
    gate = asyncio.Event()

    async def hold(visit: Visit) -> None:
        await gate.wait()
        await answer(visit)

    upstream.play(hold)
    async with open_site(upstream, tmp_path, expected_workers=WORKERS) as site:
        async with site.metered.client(await site.metered.new_key(concurrency=16)) as client:
            asking = [asyncio.create_task(ask(client)) for _ in range(3)]
            for _ in asking:
                await upstream.arrival()
            async with refused(site):
                more = [asyncio.create_task(ask(client)) for _ in range(10)]
                while sum(one.done() for one in more) < 9:
                    await asyncio.wait(more, return_when=asyncio.FIRST_COMPLETED, timeout=0.05)
                await upstream.arrival()
                gate.set()
                answers = await asyncio.gather(*asking, *more)
        assert Counter(one.status_code for one in answers) == {200: 4, 429: 9}
        assert upstream.most_at_once == 16 * PART
        await site.settled(4)


async def _clients(
    site: Site, closing: AsyncExitStack, limits: Mapping[str, Mapping[str, Any]]
) -> dict[str, httpx.AsyncClient]:
    """Return a client with a new key for each of the limits."""
    return {
        name: await closing.enter_async_context(
            site.metered.client(await site.metered.new_key(**given))
        )
        for name, given in limits.items()
    }


def _is_admitted(answer: httpx.Response) -> bool:
    """Tell whether the store admitted it; a worker that had no answer in time may refuse."""
    return answer.is_success and "x-dragoman-degraded" not in answer.headers


def _id_of(client: httpx.AsyncClient) -> str:
    key_id = parse(client.headers["authorization"].removeprefix("Bearer "))
    assert key_id
    return key_id


async def _hammer(client: httpx.AsyncClient, request: Ask, *, code: str) -> int:
    """Send REQUESTS; return how many were admitted, and check how the others were refused."""
    admitted = 0
    for _ in range(REQUESTS):
        response = await request(client)
        assert response.headers["x-dragoman-degraded"] == "quota"
        if response.is_success:
            admitted += 1
        else:
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (429, code)
            assert int(response.headers["retry-after"]) > 0
    return admitted
