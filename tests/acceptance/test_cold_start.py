"""Many clients of a model that is loading: one of them asks, all are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from tests.acceptance.recordings import recording
from tests.gateway_fixture import Gateway
from tests.patience import PATIENCE_SECONDS, within
from tests.scripted_upstream import Visit

pytestmark = pytest.mark.anyio

CLIENTS = 50
ANSWER = recording("native/plain.answer").whole()

Ask = Callable[..., Awaitable[httpx.Response]]


def loading(seconds: float) -> bytes:
    """Return the recorded 503 with another estimate."""
    recorded = recording("errors/loading")
    body = recorded.body.replace(b"20.0", b"%g" % seconds)
    return type(recorded)(recorded.head, body).whole()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(limits=limits, timeout=PATIENCE_SECONDS) as client:
        yield client


@pytest.fixture
def ask(http: httpx.AsyncClient) -> Ask:
    """Return what asks a gateway for the completion of a prompt."""

    async def post(gateway: Gateway, prompt: str = "Hi", **headers: str) -> httpx.Response:
        return await http.post(
            f"{gateway.base_url}/completions",
            json={"model": "m", "prompt": prompt},
            headers=gateway.headers
            | {"x-" + name.replace("_", "-"): headers[name] for name in headers},
        )

    return post


async def test_while_a_model_loads_one_request_at_a_time_asks_for_all_clients(
    start_gateway, upstream, ask
):
    polled: list[int] = []
    all_came = asyncio.Event()

    async def first_wave(visit: Visit) -> None:
        if len(upstream.visits) == CLIENTS:
            all_came.set()
        await all_came.wait()
        await visit.send(loading(0.1))

    async def poll(visit: Visit) -> None:
        polled.append(upstream.under_way)
        await visit.send(loading(0.1))

    upstream.play(*[first_wave] * CLIENTS, poll, poll, poll, ANSWER)
    gateway = await start_gateway()
    replies = await asyncio.gather(*(ask(gateway) for _ in range(CLIENTS)))
    assert [reply.status_code for reply in replies] == [200] * CLIENTS
    assert polled == [1, 1, 1]
    assert len(upstream.visits) == CLIENTS + len(polled) + CLIENTS


async def test_clients_that_come_while_a_model_loads_are_not_sent_on(start_gateway, upstream, ask):
    release = asyncio.Event()

    async def poll(visit: Visit) -> None:
        await release.wait()
        await visit.send(ANSWER)

    upstream.play(loading(0.1), poll, ANSWER)
    gateway = await start_gateway()
    first = asyncio.create_task(ask(gateway, "first"))
    assert [(await upstream.arrival()).body["inputs"] for _ in range(2)] == ["first"] * 2
    later = [asyncio.create_task(ask(gateway, "later")) for _ in range(5)]
    assert (await ask(gateway, "impatient", wait_for_model="0")).status_code == 200
    assert [visit.body["inputs"] for visit in upstream.visits] == ["first", "first", "impatient"]
    release.set()
    replies = await asyncio.gather(first, *later)
    assert [reply.status_code for reply in replies] == [200] * 6


async def test_when_the_client_that_asks_leaves_another_takes_its_place(
    start_gateway, upstream, ask
):
    async def silence(visit: Visit) -> None:
        await visit.left.wait()

    upstream.play(loading(0.1), silence, ANSWER)
    gateway = await start_gateway()
    asking = asyncio.create_task(ask(gateway, "asks"))
    await upstream.arrival()
    poll = await upstream.arrival()
    waiting = asyncio.create_task(ask(gateway, "waits"))
    asking.cancel()
    await poll.gone(within_seconds=1)
    assert (await waiting).status_code == 200
    assert [visit.body["inputs"] for visit in upstream.visits] == ["asks", "asks", "waits"]


async def test_a_client_that_does_not_wait_is_told_at_once(start_gateway, upstream, ask):
    upstream.play(loading(20))
    gateway = await start_gateway()
    reply = await ask(gateway, wait_for_model="0")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "model_loading"
    assert reply.headers["retry-after"] == "20"
    assert len(upstream.visits) == 1


async def test_an_estimate_beyond_the_longest_wait_is_told_at_once(start_gateway, upstream, ask):
    upstream.play(loading(20))
    gateway = await start_gateway(load_wait_seconds=10)
    async with within(5):  # not the ten that it may wait
        reply = await ask(gateway)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "20")
    assert len(upstream.visits) == 1


async def test_a_model_that_goes_on_loading_is_waited_for_as_long_as_configured(
    start_gateway, upstream, ask
):
    upstream.play(loading(0.1))
    gateway = await start_gateway(load_wait_seconds=0.5)
    replies = await asyncio.gather(*(ask(gateway) for _ in range(3)))
    assert {reply.status_code for reply in replies} == {503}
    assert {reply.json()["error"]["code"] for reply in replies} == {"model_loading"}


async def test_a_model_says_in_the_list_that_it_is_loading(start_gateway, upstream, ask, http):
    upstream.play(loading(20), ANSWER)
    gateway = await start_gateway()
    states = []
    for _ in range(2):
        await ask(gateway, wait_for_model="0")
        reply = await http.get(f"{gateway.base_url}/models/m", headers=gateway.headers)
        states.append(reply.json()["dragoman"]["state"])
    assert states == ["loading", "ready"]
