"""What the client sees of a stream, however the network cuts what the upstream sends."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.config import Settings
from tests.acceptance.events import DONE, Json, chat, choices_of, events_of, text_of
from tests.acceptance.recordings import LAST_CHUNK, Recording, recording
from tests.gateway_fixture import running_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Visit

pytestmark = pytest.mark.anyio

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "get_time")]
MOST_CHOICES = 128


@pytest.mark.parametrize("model", ["native/plain", "native/old", "openai/no_done"])
async def test_a_stream_is_a_role_then_text_then_one_finish_reason_then_done(client, model):
    reply = await client.post("/chat/completions", json=chat(model, stream=True))
    events = events_of(reply.content)
    first, *middle, last = choices_of(events)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all(set(choice["delta"]) == {"content"} for choice in middle)
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert [choice["finish_reason"] for choice in (first, *middle)] == [None] * (len(middle) + 1)
    assert events[-1] == DONE


@pytest.mark.parametrize(
    ("model", "text", "usage"),
    [
        ("native/plain", "Hello, 世界!\u2028Bye", (11, 8)),
        ("native/old", "Hello, world", (10, 5)),  # the prompt is counted here: it was not told
        ("native/length", "One two", (11, 2)),
    ],
)
async def test_answer_and_stream_say_the_same(client, model, text, usage):
    options = {"stream_options": {"include_usage": True}}
    answer = await client.post("/chat/completions", json=chat(model))
    stream = await client.post("/chat/completions", json=chat(model, stream=True, **options))
    choice, events = answer.json()["choices"][0], events_of(stream.content)
    assert choice["message"]["content"] == text_of(events) == text
    assert choice["finish_reason"] == choices_of(events)[-1]["finish_reason"]
    assert answer.json()["usage"] == events[-2]["usage"]
    assert (events[-2]["usage"]["prompt_tokens"], events[-2]["usage"]["completion_tokens"]) == usage


async def test_special_tokens_are_no_part_of_the_text(client):
    assert b"<|im_end|>" in recording("native/plain.stream").body
    for stream in (False, True):
        reply = await client.post("/chat/completions", json=chat("native/plain", stream=stream))
        assert "im_end" not in reply.text


async def test_a_server_that_does_not_stream_is_streamed_all_the_same(client):
    reply = await client.post("/chat/completions", json=chat("native/whole", stream=True))
    events = events_of(reply.content)
    assert text_of(events) == "Hello, 世界!\u2028Bye"
    assert events[-1] == DONE


@pytest.mark.parametrize("stops", [["STOP"], ["a1", "b2", "c3", "d4", "STOP"], ["STOP never"]])
async def test_text_ends_before_a_stop_and_the_upstream_is_hung_up_on(client, upstream, stops):
    recorded = recording("native/stop.stream")
    *begun, _ = recorded.events
    upstream.play(recorded.chunked(*begun))
    body = chat("native/stop", stream=True, stop=stops)
    events = events_of((await client.post("/chat/completions", json=body)).content)
    assert text_of(events) == "One two. "
    assert [choice["finish_reason"] for choice in choices_of(events)][-1] == "stop"
    await upstream.visits[0].gone(within_seconds=1)


async def test_a_choice_that_is_stopped_is_hung_up_on_while_others_go_on(client, upstream):
    stopping, going_on = recording("native/stop.stream"), recording("native/plain.stream")
    *begun, _ = stopping.events
    upstream.play(stopping.chunked(*begun), going_on.chunked(going_on.events[0]))
    body = chat("native/stop", stream=True, stop="STOP", n=2)
    async with client.stream("POST", "/chat/completions", json=body) as reply:
        async for block in reply.aiter_bytes():
            if b'"finish_reason":"stop"' in block:
                break
        await upstream.visits[0].gone(within_seconds=1)
        assert not upstream.visits[1].left.is_set()


async def test_no_chunk_ever_shows_a_part_of_a_stop(client, upstream):
    recorded = recording("native/stop.stream")
    drops = [bytes([byte]) for byte in recorded.body]
    upstream.play(recorded.chunked(*drops) + LAST_CHUNK)
    body = chat("native/stop", stream=True, stop="STOP")
    events = events_of((await client.post("/chat/completions", json=body)).content)
    pieces = [choice["delta"].get("content", "") for choice in choices_of(events)]
    assert [piece for piece in pieces if piece] == ["One", " two", ".", " "]


async def test_what_only_began_like_a_stop_is_given_back(client):
    body = chat("native/stop", stream=True, stop=["STOPPED", "shown!"])
    events = events_of((await client.post("/chat/completions", json=body)).content)
    assert text_of(events) == "One two. STOP never shown"


@pytest.mark.parametrize("stop", [None, "STOP"])
async def test_an_answer_is_cut_where_its_stream_is(client, stop):
    reply = await client.post("/chat/completions", json=chat("native/stop", stop=stop))
    expected = "One two. " if stop else "One two. STOP never shown"
    assert reply.json()["choices"][0]["message"]["content"] == expected


class _SplitSomewhere(httpx.AsyncBaseTransport):
    """Answers each request with a recording in two reads, split one byte further every time."""

    def __init__(self, recorded: Recording) -> None:
        self._body = recorded.body
        self._positions = itertools.count()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        at = next(self._positions) % len(self._body)
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(200, headers=headers, stream=_Parts(self._body[:at], self._body[at:]))


class _Parts(httpx.AsyncByteStream):
    def __init__(self, *parts: bytes) -> None:
        self._parts = list(parts)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._parts:
            yield self._parts.pop(0)


@pytest.mark.parametrize(
    "name", ["native/plain", "native/old", "native/tools", "native/stop", "native/logprobs"]
)
async def test_a_stream_split_at_any_byte_gives_the_same_chunks(tmp_path, tokenizer, name):
    recorded = recording(f"{name}.stream")
    settings = Settings(
        upstreams=[{"name": "u", "dialect": "hf", "base_url": "http://upstream"}],
        models=[{"id": "m", "tokenizer": tokenizer, "targets": [{"upstream": "u"}]}],
    )
    body = chat("m", stream=True, n=MOST_CHOICES, stop="STOP", tools=TOOLS, logprobs=True)
    seen: list[list[Json]] = []
    transport = _SplitSomewhere(recorded)
    async with (
        running_gateway(settings, tmp_path, transport=transport) as gateway,
        httpx.AsyncClient(headers=gateway.headers, timeout=PATIENCE_SECONDS) as client,
    ):
        while len(seen) < len(recorded.body):
            reply = await client.post(f"{gateway.base_url}/chat/completions", json=body)
            seen += _by_choice(events_of(reply.content))
    assert text_of([{"choices": seen[0]}])
    assert [choice for choice in seen if choice != seen[0]] == []


def _by_choice(events: list[Any]) -> list[list[Json]]:
    """Return each choice's chunks, without what differs by nature: its index and call ids."""
    chunks: list[list[Json]] = [[] for _ in range(MOST_CHOICES)]
    for choice in choices_of(events):
        for call in choice["delta"].get("tool_calls", ()):
            call.pop("id", None)
        chunks[choice.pop("index")].append(choice)
    return chunks


async def test_a_stream_that_comes_byte_by_byte_is_the_same_stream(client, upstream):
    recorded = recording("openai/vllm.stream")
    bodies = []
    for parts in (recorded.events, [bytes([byte]) for byte in recorded.body]):
        framed = recorded.chunked(*parts) + LAST_CHUNK
        upstream.play(_in_pieces(framed))
        reply = await client.post("/chat/completions", json=chat("openai/vllm", stream=True))
        events = events_of(reply.content)
        bodies.append(choices_of(events))
        assert events[-1] == DONE
    assert bodies[0] == bodies[1]


def _in_pieces(framed: bytes) -> Any:
    async def send(visit: Visit) -> None:
        await visit.send(*(framed[at : at + 7] for at in range(0, len(framed), 7)))

    return send
