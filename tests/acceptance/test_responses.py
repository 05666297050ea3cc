"""The Responses API as the official SDK and Codex use it, over upstreams that know chats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from gateway.config import Settings
from tests.acceptance.raw_client import sent
from tests.acceptance.recordings import LAST_CHUNK, recording
from tests.metered import Metered, metered_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

Json = dict[str, Any]

WEATHER: Json = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


@pytest.fixture
async def sdk(gateway, upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official SDK, which checks what it gets against its types."""
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url,
        api_key=gateway.key,
        max_retries=0,
        timeout=PATIENCE_SECONDS,
        _strict_response_validation=True,
    ) as client:
        yield client


async def test_a_text_comes_with_its_reasoning_and_usage(sdk):
    response = await sdk.responses.create(model="openai/vllm", input="Hi")
    assert response.output_text == "Hello"
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.status == "completed"
    assert (response.usage.input_tokens, response.usage.output_tokens) == (9, 3)


@pytest.mark.parametrize("model", ["native/plain", "openai/vllm", "tgi"])
async def test_a_stream_ends_in_the_whole_response(sdk, upstream, model):
    if model == "tgi":
        recorded = recording("native/plain.stream")
        upstream.play(recorded.chunked(*recorded.events) + LAST_CHUNK)
    texts = []
    async with sdk.responses.stream(model=model, input="Hi") as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                texts.append(event.delta)
        response = await stream.get_final_response()
    assert len(texts) > 1
    assert response.output_text == "".join(texts)
    assert response.status == "completed"


async def test_frames_are_named_numbered_and_without_done(client):
    body = {"model": "openai/vllm", "input": "Hi", "stream": True}
    reply = await client.post("/responses", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    frames = [frame.split("\n") for frame in reply.text.removesuffix("\n\n").split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert [name for name, _ in frames] == [f"event: {event['type']}" for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"


async def test_a_function_is_called_and_its_result_goes_back(sdk, upstream):
    first = await sdk.responses.create(model="openai/bare_tools", input="Weather?", tools=[WEATHER])
    call = first.output[0]
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "get_weather",
        {"city": "Paris"},
    )
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    history = [{"role": "user", "content": "Weather?"}, call.model_dump(), output]
    upstream.play(recording("openai/vllm.answer").whole())
    last = await sdk.responses.create(model="openai/vllm", input=history, tools=[WEATHER])
    assert last.output_text == "Hello"
    _, visit = upstream.visits
    assert [message["role"] for message in visit.body["messages"]] == ["user", "assistant", "tool"]
    assert visit.body["messages"][1]["tool_calls"][0]["id"] == call.call_id
    assert visit.body["messages"][2]["tool_call_id"] == call.call_id


async def test_a_streamed_call_is_accumulated_by_the_sdk(sdk):
    async with sdk.responses.stream(
        model="native/tools", input="Weather?", tools=[WEATHER]
    ) as stream:
        response = await stream.get_final_response()
    call = next(item for item in response.output if item.type == "function_call")
    assert call.name == "get_weather"
    assert json.loads(call.arguments)


class Person(BaseModel):
    name: str


async def test_an_answer_is_held_to_a_schema(sdk, upstream):
    answer = json.loads(recording("openai/vllm.answer").body)
    answer["choices"][0]["message"]["content"] = '{"name": "Ada"}'
    upstream.play(_json(answer))
    response = await sdk.responses.parse(model="openai/vllm", input="Who?", text_format=Person)
    assert response.output_parsed == Person(name="Ada")
    [visit] = upstream.visits
    form = visit.body["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["name"] == "Person"
    assert form["json_schema"]["schema"]["required"] == ["name"]


async def test_an_answer_cut_by_its_limit_says_so(sdk):
    response = await sdk.responses.create(model="native/length", input="Hi", max_output_tokens=16)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_nothing_of_this_api_reaches_the_upstream(client, upstream):
    body = {
        "model": "openai/vllm",
        "input": "Hi",
        "instructions": "Be brief.",
        "max_output_tokens": 5,
        "store": True,
        "truncation": "auto",
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"verbosity": "low"},
    }
    reply = await client.post("/responses", json=body)
    assert reply.status_code == 200
    [visit] = upstream.visits
    assert visit.body == {
        "model": "openai/vllm",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ],
        "max_tokens": 5,
        "reasoning_effort": "low",
        "verbosity": "low",
    }
    assert reply.headers["x-dragoman-ignored"] == (
        "include.reasoning.encrypted_content, reasoning.summary, truncation, store"
    )


async def test_what_a_dialect_leaves_out_is_named_too(client):
    body = {"model": "native/plain", "input": "Hi", "truncation": "auto", "presence_penalty": 1}
    reply = await client.post("/responses", json=body)
    assert reply.headers["x-dragoman-ignored"] == "truncation, presence_penalty"


async def test_codex_gets_its_answer(client, upstream):
    """What Codex 0.169 sends with each turn, in short."""
    body = {
        "model": "openai/bare_tools",
        "input": [
            {"type": "message", "role": "developer", "content": [_text("You are Codex.")]},
            {"type": "message", "role": "user", "content": [_text("Weather?")]},
            {"type": "reasoning", "summary": [], "encrypted_content": None},
            {"type": "function_call", "name": "exec_command", "arguments": "{}", "call_id": "c1"},
            {"type": "function_call_output", "call_id": "c1", "output": "ok"},
        ],
        "tools": [
            {"type": "function", "name": "exec_command", "strict": False, "parameters": {}},
            {
                "type": "namespace",
                "name": "multi_agent_v1",
                "description": "Agents.",
                "tools": [{"type": "function", "name": "wait_agent", "parameters": {}}],
            },
            {"type": "web_search", "external_web_access": True},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a2",
        "client_metadata": {"session_id": "01a2"},
    }
    reply = await client.post("/responses", json=body)
    assert reply.status_code == 200
    assert "event: response.completed\n" in reply.text
    assert reply.headers["x-dragoman-ignored"].startswith("tools.web_search")
    [visit] = upstream.visits
    names = [tool["function"]["name"] for tool in visit.body["tools"]]
    assert names == ["exec_command", "multi_agent_v1__wait_agent"]
    assert "client_metadata" not in visit.body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("model", "error", "param"),
    [
        ("errors/rate_limit", openai.RateLimitError, None),
        ("errors/context", openai.BadRequestError, "input"),
        ("errors/missing", openai.NotFoundError, "model"),
        ("nowhere", openai.NotFoundError, "model"),
    ],
)
async def test_early_failures_are_statuses_in_the_words_of_this_api(
    sdk, model, error, param, stream
):
    with pytest.raises(error) as caught:
        await sdk.responses.create(model=model, input="Hi", stream=stream)
    assert caught.value.param == param


async def test_what_a_model_cannot_take_is_named_as_the_client_named_it(sdk):
    image = {"type": "input_image", "image_url": "data:,", "detail": "auto"}
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.responses.create(
            model="native/plain", input=[{"role": "user", "content": [image]}]
        )
    assert caught.value.param == "input"
    assert "messages" not in caught.value.message


async def test_a_late_failure_ends_the_stream_in_response_failed(sdk, upstream):
    recorded = recording("openai/vllm.stream")

    async def fail(visit: Visit) -> None:
        await visit.send(recorded.chunked(*recorded.events[:3]))
        visit.reset()

    upstream.play(fail)
    events = [
        event
        async for event in await sdk.responses.create(model="openai/vllm", input="Hi", stream=True)
    ]
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.code == "server_error"
    assert events[-1].response.output_text == "Hel"


async def test_a_client_that_leaves_closes_the_upstream(gateway, upstream):
    recorded = recording("openai/vllm.stream")
    upstream.play(recorded.chunked(*recorded.events[:3]))
    body = {"model": "openai/vllm", "input": "Hi", "stream": True}
    async with sent(gateway, body, path="/v1/responses") as reader:
        await reader.readuntil(b'"delta":"Hel"')
        visit = await upstream.arrival()
        assert not visit.left.is_set()
    await visit.gone(within_seconds=1)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/responses/resp_1"),
        ("DELETE", "/responses/resp_1"),
        ("GET", "/responses/resp_1/input_items"),
        ("POST", "/responses/resp_1/cancel"),
    ],
)
async def test_no_response_is_stored(client, method, path):
    reply = await client.request(method, path)
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert error["code"] == "response_not_found"
    assert "stores no responses" in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/responses"), ("PUT", "/responses"), ("POST", "/responses/resp_1")],
)
async def test_other_methods_are_refused(client, method, path):
    reply = await client.request(method, path)
    assert reply.status_code == 405
    assert reply.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/responses", "/responses/resp_1/cancel"])
async def test_all_of_it_is_behind_a_key(gateway, path):
    async with httpx.AsyncClient(base_url=gateway.base_url) as stranger:
        reply = await stranger.post(path, json={"model": "openai/vllm", "input": "Hi"})
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"


async def test_the_route_is_described(gateway):
    async with httpx.AsyncClient() as stranger:
        reply = await stranger.get(f"http://127.0.0.1:{gateway.port}/docs/openapi.json")
    document = reply.json()
    body = document["paths"]["/v1/responses"]["post"]["requestBody"]["content"]
    name = body["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert "instructions" in document["components"]["schemas"][name]["properties"]


@pytest.fixture
async def metered(upstream: Upstream, tmp_path) -> AsyncIterator[Metered]:
    """A gateway with a ledger and a cache."""
    given = {
        "upstreams": [{"name": "vllm", "dialect": "openai", "base_url": f"{upstream.url}/v1"}],
        "models": [{"id": "openai/vllm", "targets": [{"upstream": "vllm"}]}],
    }
    async with metered_gateway(Settings.model_validate(given), tmp_path) as running:
        yield running


async def test_the_ledger_has_a_chat(metered):
    async with metered.client(await metered.new_key()) as client:
        await client.post("/responses", json={"model": "openai/vllm", "input": "Hi"})
    [record] = await metered.records(1)
    assert (record["task"], record["status"], record["finish"]) == ("chat", "ok", "stop")
    assert (record["input_tokens"], record["output_tokens"]) == (9, 3)


async def test_chats_and_responses_share_what_was_made(metered, upstream):
    chat = {"model": "openai/vllm", "seed": 1, "messages": [{"role": "user", "content": "Hi"}]}
    asked = {"model": "openai/vllm", "seed": 1, "input": [{"role": "user", "content": "Hi"}]}
    async with metered.client(await metered.new_key()) as client:
        made = await client.post("/chat/completions", json=chat)
        await _kept(client, chat)
        told = await client.post("/responses", json=asked | {"metadata": {"a": "b"}})
        again = await client.post(
            "/responses",
            json=asked | {"metadata": {"a": "c"}},
            headers={"if-none-match": told.headers["etag"]},
        )
    assert made.json()["choices"][0]["message"]["content"] == "Hello"
    assert told.headers["x-dragoman-cache"] == "hit"
    assert told.json()["output"][1]["content"][0]["text"] == "Hello"
    assert (again.status_code, again.json()["metadata"]) == (200, {"a": "c"})
    assert len(upstream.visits) == 1


async def _kept(client: httpx.AsyncClient, chat: Json) -> None:
    """Wait until the answer to `chat` is in the cache."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            only = {"cache-control": "only-if-cached"}
            if (await client.post("/chat/completions", json=chat, headers=only)).is_success:
                return


def _text(text: str) -> Json:
    return {"type": "input_text", "text": text}


def _json(answer: Json) -> bytes:
    body = json.dumps(answer).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body
