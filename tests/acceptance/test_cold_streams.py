"""What clients of a stream get while its model loads: the head and comments, then the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.acceptance.events import DONE, events_of, text_of
from tests.acceptance.raw_client import sent
from tests.acceptance.recordings import framed, recording
from tests.acceptance.test_cold_start import loading
from tests.patience import PATIENCE_SECONDS, within
from tests.scripted_upstream import Visit

pytestmark = pytest.mark.anyio

STREAM = framed(recording("native/plain.stream"))
COMMENT = b": keep-alive\n"
BODY = {"model": "m", "prompt": "Hi", "stream": True}
QUICK = {"keep_alive_seconds": 0.1}
FAILURE = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 15\r\n\r\n" + b'{"error":"bad"}'


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readuntil(b"\r\n\r\n")).lower()


async def body_until(reader: asyncio.StreamReader, last: bytes) -> bytes:
    """Return the chunks' contents, up to the one that ends with `last`."""
    body = b""
    while not body.endswith(last):
        size = int(await reader.readline(), 16)
        if not size:
            return body
        body += (await reader.readexactly(size + 2))[:-2]
    return body


async def test_a_stream_begins_with_comments_while_its_model_loads(start_gateway, upstream):
    release = asyncio.Event()

    async def answer(visit: Visit) -> None:
        await release.wait()
        await visit.send(STREAM)

    upstream.play(loading(0.1), loading(0.1), answer)
    gateway = await start_gateway(server=QUICK, first_byte_timeout_seconds=PATIENCE_SECONDS)
    async with sent(gateway, BODY, path="/v1/completions") as reader:
        head = await read_head(reader)
        assert head.startswith(b"http/1.1 200")
        assert b"content-type: text/event-stream" in head
        assert b"x-request-id" in head
        assert b"x-dragoman-upstream: hf" in head
        for _ in range(2):
            assert await body_until(reader, COMMENT) == COMMENT
        release.set()
        body = (await body_until(reader, b"[DONE]\n\n")).replace(COMMENT, b"")
    events = events_of(body)
    assert events[-1] == DONE
    assert text_of(events)


async def test_a_failure_after_that_is_an_event(start_gateway, upstream):
    failing = asyncio.Event()

    async def fail(visit: Visit) -> None:
        await failing.wait()
        await visit.send(FAILURE)

    upstream.play(loading(0.1), fail)
    gateway = await start_gateway(server=QUICK)
    async with sent(gateway, BODY, path="/v1/completions") as reader:
        await read_head(reader)
        assert await body_until(reader, COMMENT) == COMMENT
        failing.set()
        body = (await body_until(reader, b"}}\n\n")).replace(COMMENT, b"")
        assert await reader.readline() == b"0\r\n"
    assert json.loads(body.removeprefix(b"data: "))["error"]["message"] == "bad"


async def test_a_failure_before_that_has_its_own_status(start_gateway, upstream, http):
    upstream.play(loading(0.1), FAILURE)
    gateway = await start_gateway()
    reply = await http.post(f"{gateway.base_url}/completions", json=BODY, headers=gateway.headers)
    assert reply.status_code == 400


async def test_nothing_is_sent_early_of_what_is_no_stream(start_gateway, upstream, http):
    upstream.play(loading(0.1))
    gateway = await start_gateway(server=QUICK, load_wait_seconds=1)
    reply = await http.post(
        f"{gateway.base_url}/completions", json=BODY | {"stream": False}, headers=gateway.headers
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_loading")


async def test_the_head_of_a_stream_waits_for_its_first_event_when_nothing_loads(
    start_gateway, upstream, http
):
    async def hesitate(visit: Visit) -> None:
        await asyncio.sleep(0.5)  # five times the silence after which a model's loading is told
        await visit.send(FAILURE)

    upstream.play(hesitate)
    gateway = await start_gateway(server=QUICK)
    reply = await http.post(f"{gateway.base_url}/completions", json=BODY, headers=gateway.headers)
    assert reply.status_code == 400


async def test_a_client_that_leaves_while_its_model_loads_ends_the_questions(
    start_gateway, upstream
):
    upstream.play(loading(0.1))
    gateway = await start_gateway(server=QUICK)
    async with sent(gateway, BODY, path="/v1/completions") as reader:
        await read_head(reader)
    asked = 0
    async with within(10):
        while asked < len(upstream.visits):  # ten times in each second, if they go on
            asked = len(upstream.visits)
            await asyncio.sleep(1)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        yield client
