"""`POST /v1/images/generations` with `stream`: an event for each picture as it is ready."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx
import pytest
from openai import APIError, AsyncOpenAI, InternalServerError

from tests.gateway.image_route.painting import as_json, paint, painted
from tests.patience import within
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio


async def test_a_stream_hands_over_each_picture_as_it_is_ready(
    sdk: AsyncOpenAI, upstream: Upstream
) -> None:
    first_was_read = asyncio.Event()

    async def wait_for_the_first(visit: Visit) -> None:
        if visit.body["parameters"]["seed"] != 8:
            await first_was_read.wait()
        await paint(visit)

    upstream.play(wait_for_the_first)
    events = []
    stream = await sdk.images.generate(
        model="hf/painter", prompt="fox", n=3, stream=True, extra_body={"seed": 7}
    )
    async for event in stream:
        first_was_read.set()
        events.append(event)
    assert [event.type for event in events] == ["image_generation.completed"] * 3
    pictures = [base64.b64decode(event.b64_json) for event in events]
    assert pictures[0] == painted(8)
    assert set(pictures) == {painted(7), painted(8), painted(9)}
    assert {(event.size, event.output_format) for event in events} == {("32x24", "png")}


async def test_a_stream_of_one_call_with_several_pictures_tells_its_usage_once(
    http_client: httpx.AsyncClient, upstream: Upstream
) -> None:
    data = [{"b64_json": base64.b64encode(painted(at)).decode()} for at in range(2)]
    usage = {"input_tokens": 9, "output_tokens": 272, "total_tokens": 281}
    upstream.play(as_json({"created": 1, "data": data, "usage": usage}))
    wish = {"model": "openai/painter", "prompt": "fox", "n": 2, "stream": True}
    answer = await http_client.post("/images/generations", json=wish)
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.strip().split("\n\n")
    assert all(frame.startswith("event: image_generation.completed\ndata: ") for frame in frames)
    events = [json.loads(frame.partition("data: ")[2]) for frame in frames]
    assert [event["usage"]["total_tokens"] for event in events] == [0, 281]


async def test_a_failure_before_the_first_picture_of_a_stream_is_a_status(
    sdk: AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.play(as_json({"error": "out of order"}, status=500))
    with pytest.raises(InternalServerError) as failure:
        await sdk.images.generate(model="hf/painter", prompt="fox", n=2, stream=True)
    assert failure.value.status_code == 502


async def test_a_failure_after_the_first_picture_is_an_event(
    sdk: AsyncOpenAI, upstream: Upstream
) -> None:
    first_was_read = asyncio.Event()

    async def fail_later(visit: Visit) -> None:
        if visit.body["parameters"]["seed"] == 1:
            await paint(visit)
            return
        await first_was_read.wait()
        await visit.send(as_json({"error": "out of order"}, status=500))

    upstream.play(fail_later)
    stream = await sdk.images.generate(
        model="hf/painter", prompt="fox", n=2, stream=True, extra_body={"seed": 1}
    )
    events = []
    with pytest.raises(APIError, match="out of order"):
        async for event in stream:
            first_was_read.set()
            events.append(event)
    assert len(events) == 1


class Patience:
    """Answers those with the seed 1 and lets all others wait until the gateway hangs up."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[Visit] = asyncio.Queue()
        self.gone: asyncio.Queue[Visit] = asyncio.Queue()

    async def __call__(self, visit: Visit) -> None:
        if visit.body["parameters"]["seed"] == 1:
            await paint(visit)
            return
        self.came.put_nowait(visit)
        await visit.gone(within_seconds=5)
        self.gone.put_nowait(visit)

    async def are_gone(self, count: int) -> None:
        """Wait until `count` calls have been hung up on."""
        async with within(2):
            for _ in range(count):
                await self.gone.get()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_upstream_is_hung_up_on_when_the_client_leaves(
    http_client: httpx.AsyncClient, upstream: Upstream, stream: bool
) -> None:
    patience = Patience()
    upstream.play(patience)
    wish = {"model": "hf/painter", "prompt": "fox", "n": 3, "stream": stream, "seed": 2}
    asking = asyncio.create_task(http_client.post("/images/generations", json=wish))
    for _ in range(3):
        await patience.came.get()
    asking.cancel()
    await patience.are_gone(3)


async def test_an_upstream_is_hung_up_on_when_the_client_leaves_between_two_pictures(
    http_client: httpx.AsyncClient, upstream: Upstream
) -> None:
    patience = Patience()
    upstream.play(patience)
    wish = {"model": "hf/painter", "prompt": "fox", "n": 2, "stream": True, "seed": 1}
    async with http_client.stream("POST", "/images/generations", json=wish) as answer:
        await anext(answer.aiter_bytes())
    await patience.are_gone(1)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_other_calls_end_when_one_has_failed(
    sdk: AsyncOpenAI, upstream: Upstream, stream: bool
) -> None:
    patience = Patience()

    async def fail_or_wait(visit: Visit) -> None:
        if visit.body["parameters"]["seed"] == 2:
            await patience.came.get()
            await visit.send(as_json({"error": "out of order"}, status=500))
        else:
            await patience(visit)

    upstream.play(fail_or_wait)
    with pytest.raises(InternalServerError):
        await sdk.images.generate(
            model="hf/painter", prompt="fox", n=2, stream=stream, extra_body={"seed": 2}
        )
    await patience.are_gone(1)
