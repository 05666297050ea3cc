"""The bytes of a stream on the client's own connection."""

from __future__ import annotations

import asyncio
import re

import httpx
import openai
import pytest

from tests.acceptance.events import DONE, chat, events_of, text_of
from tests.acceptance.raw_client import sent
from tests.acceptance.recordings import LAST_CHUNK, chunk, recording
from tests.gateway_fixture import Gateway
from tests.scripted_upstream import Visit

pytestmark = pytest.mark.anyio

COMMENT = b": keep-alive\n"


class _Halting:
    """Sends a stream up to the middle of its third event, and the rest when told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        recorded = recording("native/plain.stream")
        first, second, third, *rest = recorded.events
        await visit.send(recorded.chunked(first, second, third[:40]))
        await self.go_on.wait()
        await visit.send(*map(chunk, (third[40:], *rest)), LAST_CHUNK)


async def _wait_out(gateway: Gateway, halting: _Halting) -> bytes:
    """Return the body of a stream that is told to go on after three comments."""
    body = b""
    url = f"{gateway.base_url}/completions"
    request = {"model": "m", "prompt": "Hi", "stream": True}
    async with (
        httpx.AsyncClient(headers=gateway.headers) as client,
        client.stream("POST", url, json=request) as reply,
    ):
        async for block in reply.aiter_bytes():
            body += block
            if body.count(COMMENT) == 3:
                halting.go_on.set()
    return body


async def test_silence_on_a_stream_is_filled_with_comments_between_events(start_gateway, upstream):
    halting = _Halting()
    upstream.play(halting)
    gateway = await start_gateway(server={"keep_alive_seconds": 0.05})
    body = await _wait_out(gateway, halting)
    assert b"\n\n" + COMMENT * 3 + b"data: {" in body
    events = events_of(re.sub(rb"(?m)^: keep-alive\n", b"", body))
    assert text_of(events) == "Hello, 世界!\u2028Bye"
    assert events[-1] == DONE


async def test_comments_do_not_disturb_the_sdk(start_gateway, upstream):
    halting = _Halting()
    upstream.play(halting)
    gateway = await start_gateway(server={"keep_alive_seconds": 0.05})
    text = ""
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.key) as sdk:
        stream = await sdk.completions.create(model="m", prompt="Hi", stream=True)
        async for event in stream:
            text += event.choices[0].text
            if text == "Hello,":
                await _wait_out(gateway, halting)  # comments come on both streams meanwhile
    assert text == "Hello, 世界!\u2028Bye"


async def test_the_status_is_held_until_the_first_event(client, upstream):
    async def think_then_fail(visit: Visit) -> None:
        recorded = recording("errors/overloaded_event")
        await visit.send(recorded.chunked(b":\n\n", b":\n\n"))
        await visit.send(chunk(recorded.body), LAST_CHUNK)

    upstream.play(think_then_fail)
    reply = await client.post("/chat/completions", json=chat("native/plain", stream=True))
    assert reply.status_code == 429


@pytest.mark.parametrize("model", ["native/plain", "openai/vllm"])
async def test_done_and_the_end_of_the_body_leave_together(gateway, upstream, model):
    for _ in range(20):
        async with sent(gateway, chat(model, stream=True)) as reader:
            blocks = []
            while not blocks or b"[DONE]" not in blocks[-1]:
                blocks.append(await reader.read(65_536))
        assert blocks[-1].endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_stream_may_not_be_cached_buffered_or_compressed(client):
    reply = await client.post("/chat/completions", json=chat("native/plain", stream=True))
    assert reply.headers["cache-control"] == "no-cache, no-transform"
    assert reply.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in reply.headers


async def test_every_frame_is_one_line_of_json_even_with_separators_in_the_text(client):
    reply = await client.post("/chat/completions", json=chat("native/plain", stream=True))
    assert "\u2028" in text_of(events_of(reply.content))
