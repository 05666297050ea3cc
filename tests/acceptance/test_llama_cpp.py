"""llama.cpp's own server behind the gateway: real answers, real errors, real times."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from adapters.local.weights import find
from gateway.config import Settings
from tests.acceptance.conftest import TOKENIZER
from tests.acceptance.events import choices_of, events_of, text_of
from tests.acceptance.llama_cpp_server import CONTEXT_TOKENS
from tests.metered import Metered, metered_gateway
from tests.patience import PATIENCE_SECONDS, within

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
ASKED = [{"role": "user", "content": "Name three colours."}]
COUNT = "1, 2, 3, 4, 5, 6,"
FLOATS = 576  # of an embedding
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "is_old": {"type": "boolean"}},
    "required": ["age", "is_old"],
    "additionalProperties": False,
}


@dataclass
class Server:
    """One that runs. `process` prints a line when the model is loaded."""

    url: str
    process: subprocess.Popen[str] = field(repr=False)

    async def when_loaded(self) -> None:
        assert self.process.stdout
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line.startswith("ready")

    async def when_idle(self) -> None:
        """Wait until it generates nothing."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            while await _is_busy(client):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.05)


async def _is_busy(client: httpx.AsyncClient) -> bool:
    return any(slot["is_processing"] for slot in (await client.get("/slots")).json())


def free_url() -> str:
    """Return where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def started(url: str) -> Iterator[Server]:
    """Start a server, which loads its model for a second or so, and end it with the block."""
    port = url.rpartition(":")[2]
    weights, template = find("smollm2-135m-instruct"), HERE / "hermes.jinja"
    process = subprocess.Popen(
        [sys.executable, HERE / "llama_cpp_server.py", weights, port, template],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Server(url, process)
    finally:
        process.communicate(timeout=PATIENCE_SECONDS)


def settings(url: str) -> Settings:
    upstream = {"name": "llama", "dialect": "openai", "base_url": url}
    targets = [{"upstream": "llama", "model": "served"}]
    return Settings.model_validate(
        {
            "upstreams": [upstream],
            "models": [
                {"id": "chat", "tokenizer": str(TOKENIZER), "targets": targets},
                {"id": "embedding", "task": "embedding", "targets": targets},
            ],
            "cache": {"ttl_seconds": 0},
        }
    )


@pytest.fixture(scope="module")
async def server(anyio_backend: str) -> AsyncIterator[Server]:
    with started(free_url()) as running:
        await running.when_loaded()
        yield running


@pytest.fixture(scope="module")
async def gateway(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Metered]:
    async with metered_gateway(settings(server.url), tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
async def key(gateway: Metered) -> str:
    return await gateway.new_key()


@pytest.fixture(scope="module")
async def sdk(gateway: Metered, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        api_key=key, base_url=gateway.base_url, max_retries=0, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


@pytest.fixture
async def client(gateway: Metered, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client(key) as made:
        yield made


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": ASKED, "seed": 7, "max_tokens": 12, **fields}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "chat", "prompt": COUNT, "temperature": 0, "max_tokens": 6, **fields}


async def record_of(gateway: Metered, request_id: str) -> Any:
    """Return the ledger's record of a request."""
    found = await gateway.until(
        lambda: gateway.records(1),
        lambda rows: any(row["request_id"] == request_id for row in rows),
    )
    return next(row for row in found if row["request_id"] == request_id)


async def test_a_seed_makes_the_same_text_again_whole_and_streamed(
    client: httpx.AsyncClient,
) -> None:
    first, again = [(await client.post("/chat/completions", json=chat())).json() for _ in "12"]
    streamed = events_of((await client.post("/chat/completions", json=chat(stream=True))).content)
    other = (await client.post("/chat/completions", json=chat(seed=8))).json()

    said, *rest = [answer["choices"][0]["message"]["content"] for answer in (first, again, other)]
    assert said
    assert rest[0] == text_of(streamed) == said != rest[1]
    assert first["model"] == "chat"
    assert choices_of(streamed)[-1]["finish_reason"] == first["choices"][0]["finish_reason"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", chat()),
        ("/completions", completion()),
        ("/embeddings", {"model": "embedding", "input": ["red", "a green door"]}),
    ],
)
async def test_the_ledger_has_the_usage_that_it_tells(
    path: str, body: dict[str, Any], client: httpx.AsyncClient, gateway: Metered, server: Server
) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as direct:
        told = (await direct.post(f"{server.url}/v1{path}", json=body)).json()["usage"]

    answer = await client.post(path, json=body)

    record = await record_of(gateway, answer.headers["x-request-id"])
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] == record["input_tokens"] == told["prompt_tokens"] > 0
    assert record["output_tokens"] == told.get("completion_tokens", 0)
    assert not record["estimated"]


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
async def test_a_stream_is_metered_whether_or_not_the_client_asks_for_usage(
    path: str, client: httpx.AsyncClient, gateway: Metered
) -> None:
    body = (chat if "chat" in path else completion)(stream=True)
    silent = await client.post(path, json=body)
    asked = await client.post(path, json=body | {"stream_options": {"include_usage": True}})

    usage = events_of(asked.content)[-2]["usage"]
    assert usage["completion_tokens"] > 0
    assert not any("usage" in event for event in events_of(silent.content)[:-1])
    record = await record_of(gateway, silent.headers["x-request-id"])
    assert (record["input_tokens"], record["output_tokens"], record["estimated"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
        False,
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_all_choices_are_metered_though_it_tells_of_one(
    stream: bool, client: httpx.AsyncClient, gateway: Metered
) -> None:
    single = await client.post("/completions", json=completion())
    answer = await client.post("/completions", json=completion(prompt=[COUNT] * 3, stream=stream))

    assert answer.status_code == 200, answer.text
    record = await record_of(gateway, answer.headers["x-request-id"])
    usage = single.json()["usage"]
    # What several choices say by turns is counted as one text, and may be some tokens less.
    assert record["output_tokens"] > 2.5 * usage["completion_tokens"]
    assert record["input_tokens"] >= 3 * usage["prompt_tokens"]
    assert record["estimated"]


async def test_it_stops_before_the_text_that_it_is_to_stop_at(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.completions.create(**completion(max_tokens=30, stop=[" 9"]))

    [choice] = answer.choices
    assert (choice.text, choice.finish_reason) == (" 7, 8,", "stop")


async def test_each_of_several_choices_is_drawn_anew(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.chat.completions.create(**chat(n=2))
    texts = ["", ""]
    async for chunk in await sdk.chat.completions.create(**chat(n=2), stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""

    assert [choice.message.content for choice in whole.choices] == texts
    assert len(set(texts)) == 2


async def test_log_probabilities_of_a_chat_are_those_of_its_tokens(
    sdk: openai.AsyncOpenAI,
) -> None:
    [choice] = (await sdk.chat.completions.create(**chat(logprobs=True, top_logprobs=2))).choices

    assert choice.logprobs
    tokens = choice.logprobs.content or []
    assert "".join(token.token for token in tokens) == choice.message.content
    assert {len(token.top_logprobs) for token in tokens} == {2}


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_of_a_completion_have_its_own_form(
    stream: bool, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/completions", json=completion(logprobs=2, stream=stream))

    choices = choices_of(events_of(answer.content)) if stream else answer.json()["choices"]
    told = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    tokens, offsets, tops = (
        [one for said in told for one in said[name]]
        for name in ("tokens", "text_offset", "top_logprobs")
    )
    assert "".join(tokens) == "".join(choice["text"] for choice in choices)
    assert offsets == [len("".join(tokens[:at])) for at in range(6)]
    assert all(token in top for token, top in zip(tokens, tops, strict=True))  # it is greedy


@pytest.mark.parametrize("stream", [False, True])
async def test_several_prompts_are_completed_each(stream: bool, client: httpx.AsyncClient) -> None:
    body = completion(prompt=[COUNT, "a, b, c, d, e, f,"], stream=stream)
    answer = await client.post("/completions", json=body)

    assert answer.status_code == 200, answer.text
    choices = choices_of(events_of(answer.content)) if stream else answer.json()["choices"]
    texts = ["", ""]
    for choice in choices:
        texts[choice["index"]] += choice["text"]
    assert texts[0].startswith(" 7, 8,")
    assert texts[1].startswith(" g, h,")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_follows_its_schema(stream: bool, client: httpx.AsyncClient) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    body = chat(response_format=form, max_tokens=100, stream=stream)
    answer = await client.post("/chat/completions", json=body)

    text = (
        text_of(events_of(answer.content))
        if stream
        else answer.json()["choices"][0]["message"]["content"]
    )
    assert {name: type(value) for name, value in json.loads(text).items()} == {
        "age": int,
        "is_old": bool,
    }


def weather_talk(*cities: str) -> list[dict[str, Any]]:
    """Return a talk in which a tool was asked for the weather in all cities but the last."""
    talk: list[dict[str, Any]] = []
    for city in cities[:-1]:
        function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
        call = {"id": f"call_{city}", "type": "function", "function": function}
        talk += [
            {"role": "user", "content": f"Weather in {city}?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
            {"role": "assistant", "content": "Sunny."},
        ]
    return [*talk, {"role": "user", "content": f"Weather in {cities[-1]}?"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called(stream: bool, sdk: openai.AsyncOpenAI) -> None:
    talk = weather_talk("Rome", "Oslo", "Berlin", "Paris")
    body = chat(messages=talk, tools=[WEATHER], temperature=0, max_tokens=60)
    if stream:
        async with sdk.chat.completions.stream(**body) as events:
            answer = await events.get_final_completion()
    else:
        answer = await sdk.chat.completions.create(**body)

    [choice] = answer.choices
    [call] = choice.message.tool_calls or []
    assert choice.finish_reason == "tool_calls"
    assert (call.id != "", call.type, call.function.name) == (True, "function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}


PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"messages": [{"role": "user", "content": "word " * CONTEXT_TOKENS}]},
        "context_length_exceeded",
        "exceeds the available context size",
    ),
    ({"extra_body": {"min_p": "hot"}}, "invalid_value", "must be number"),
    ({"messages": [{"role": "user", "content": [PIXEL]}]}, "invalid_value", "image input"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "code", "words"), REFUSED)
async def test_what_it_refuses_is_the_clients_to_mend(
    fields: dict[str, Any], code: str, words: str, stream: bool, sdk: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.chat.completions.create(**chat(**fields), stream=stream)

    assert refused.value.code == code
    assert words in refused.value.message


async def test_embeddings_are_the_same_in_both_forms(sdk: openai.AsyncOpenAI) -> None:
    inputs = ["red", "a green door"]
    floats = await sdk.embeddings.create(model="embedding", input=inputs, encoding_format="float")
    packed = await sdk.embeddings.create(model="embedding", input=inputs)

    for one, other in zip(floats.data, packed.data, strict=True):
        assert len(one.embedding) == FLOATS
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


async def test_it_stops_generating_when_the_client_leaves(
    client: httpx.AsyncClient, server: Server, gateway: Metered
) -> None:
    body = chat(max_tokens=CONTEXT_TOKENS - 100, ignore_eos=True, stream=True)
    async with client.stream("POST", "/chat/completions", json=body) as reply:
        await anext(reply.aiter_bytes())

    async with within(5):  # it looks every second; the whole answer would take ten at the least
        await server.when_idle()
    record = await record_of(gateway, reply.headers["x-request-id"])
    assert 0 < record["output_tokens"] < body["max_tokens"]


async def test_a_model_that_is_loading_is_waited_for(tmp_path: Path) -> None:
    url = free_url()
    async with (
        metered_gateway(settings(url), tmp_path) as gateway,
        gateway.client(await gateway.new_key()) as client,
    ):
        with started(url):
            assert await first_word(url) == "Loading model"

            answer = await client.post("/chat/completions", json=chat())

    assert answer.status_code == 200, answer.text


async def first_word(url: str) -> str:
    """Return what a server says when it has begun to listen, which is before it loads."""
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        while True:
            try:
                told: str = (await client.get("/health")).json()["error"]["message"]
            except httpx.TransportError:
                await asyncio.sleep(0.01)
            else:
                return told
