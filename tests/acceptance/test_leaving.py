"""A client that leaves takes its upstream connections with it, within a second."""

from __future__ import annotations

import asyncio

import pytest

from tests.acceptance.events import chat
from tests.acceptance.raw_client import sent
from tests.acceptance.recordings import recording
from tests.scripted_upstream import Visit

pytestmark = pytest.mark.anyio


async def _silence(visit: Visit) -> None:
    await visit.left.wait()


@pytest.mark.parametrize("model", ["native/plain", "openai/vllm"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_leaves_before_the_answer_closes_the_upstream(
    gateway, upstream, model, stream
):
    upstream.play(_silence)
    async with sent(gateway, chat(model, stream=stream)):
        visit = await upstream.arrival()
    await visit.gone(within_seconds=1)


@pytest.mark.parametrize("model", ["native/plain", "openai/vllm"])
async def test_a_client_that_leaves_a_stream_closes_the_upstream(gateway, upstream, model):
    recorded = recording(f"{model}.stream")
    upstream.play(recorded.chunked(*recorded.events[:3]))
    async with sent(gateway, chat(model, stream=True)) as reader:
        await reader.readuntil(b'"content":"Hel')
        visit = await upstream.arrival()
        assert not visit.left.is_set()
    await visit.gone(within_seconds=1)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_leaves_closes_the_upstreams_of_all_its_choices(
    gateway, upstream, stream
):
    upstream.play(_silence)
    async with sent(gateway, chat("native/plain", n=3, stream=stream)):
        visits = [await upstream.arrival() for _ in range(3)]
    await asyncio.gather(*(visit.gone(within_seconds=1) for visit in visits))


async def test_a_client_that_leaves_a_stream_of_choices_closes_all_their_upstreams(
    gateway, upstream
):
    recorded = recording("native/plain.stream")
    upstream.play(recorded.chunked(*recorded.events[:2]))
    async with sent(gateway, chat("native/plain", n=3, stream=True)) as reader:
        for _ in range(3):
            await reader.readuntil(b'"content":","')
        visits = [await upstream.arrival() for _ in range(3)]
    await asyncio.gather(*(visit.gone(within_seconds=1) for visit in visits))


async def test_one_choice_that_is_refused_closes_the_upstreams_of_the_others(
    client, gateway, upstream
):
    error = recording("errors/validation").whole()
    upstream.play(_silence, _silence, error)
    reply = await client.post("/chat/completions", json=chat("native/plain", n=3))
    assert reply.status_code == 400
    await asyncio.gather(*(visit.gone(within_seconds=1) for visit in upstream.visits[:2]))


async def test_a_choice_that_fails_closes_the_streams_that_others_have_begun(client, upstream):
    fail = asyncio.Event()
    recorded = recording("native/plain.stream")
    begun = recorded.chunked(recorded.events[0])

    async def refuse(visit: Visit) -> None:
        await fail.wait()
        await visit.send(recording("errors/validation").whole())

    upstream.play(begun, begun, refuse, recording("native/plain.answer").whole())
    body = chat("native/plain", n=3, stream=True)
    asking = asyncio.create_task(client.post("/chat/completions", json=body))
    visits = [await upstream.arrival() for _ in range(3)]
    await client.post("/chat/completions", json=chat("native/plain"))  # the others begin meanwhile
    fail.set()
    assert (await asking).status_code == 400
    await asyncio.gather(*(visit.gone(within_seconds=1) for visit in visits[:2]))


async def test_a_whole_stream_leaves_its_upstream_connection_open_for_the_next(client, upstream):
    for _ in range(2):
        await client.post("/chat/completions", json=chat("native/plain", stream=True))
    first, second = upstream.visits
    assert first.connection == second.connection
    assert not second.left.is_set()
