"""Upstreams that fail: with the true status before the first token, as an error event after."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.events import chat, choices_of, events_of, text_of
from tests.acceptance.recordings import LAST_CHUNK, chunk, recording
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Visit

pytestmark = pytest.mark.anyio

# recording → status, code, param, retry-after
ERRORS: dict[str, tuple[int, str, str | None, str | None]] = {
    "loading": (503, "model_loading", None, "20"),
    "loading_200": (503, "model_loading", None, "301"),
    "loading_event": (503, "model_loading", None, "20"),
    "llama_loading": (503, "model_loading", None, "20"),
    "overloaded_html": (503, "upstream_overloaded", None, "7"),
    "overloaded_json": (503, "upstream_overloaded", None, None),
    "overloaded_empty": (503, "upstream_overloaded", None, None),
    "unhealthy": (503, "upstream_overloaded", None, None),
    "rate_limit": (429, "rate_limit_exceeded", None, "30"),
    "tgi_overloaded": (429, "rate_limit_exceeded", None, None),
    "overloaded_event": (429, "rate_limit_exceeded", None, None),
    "validation_event": (400, "invalid_value", None, None),
    "vllm_event": (400, "invalid_value", None, None),
    "generation_event": (502, "upstream_error", None, None),
    "context_event": (400, "context_length_exceeded", "messages", None),
    "credits": (402, "insufficient_quota", None, None),
    "quota": (402, "insufficient_quota", None, None),
    "token": (502, "upstream_misconfigured", None, None),
    "token_old": (502, "upstream_misconfigured", None, None),
    "token_empty": (502, "upstream_misconfigured", None, None),
    "gated": (502, "upstream_misconfigured", None, None),
    "gone": (502, "upstream_misconfigured", None, None),
    "missing": (404, "model_not_found", "model", None),
    "no_embeddings": (404, "model_not_found", "model", None),
    "provider": (404, "model_not_found", "model", None),
    "provider_v1": (404, "model_not_found", "model", None),
    "kwargs": (400, "invalid_value", None, None),
    "list": (400, "invalid_value", None, None),
    "detail": (400, "invalid_value", None, None),
    "detail_object": (400, "invalid_value", None, None),
    "detail_list": (400, "invalid_value", None, None),
    "context": (400, "context_length_exceeded", "messages", None),
    "llama_context": (400, "context_length_exceeded", "messages", None),
    "sglang_context": (400, "context_length_exceeded", "messages", None),
    "vllm_context": (400, "context_length_exceeded", "messages", None),
    "no_vision": (400, "invalid_value", None, None),
    "validation": (400, "invalid_value", None, None),
    "axum": (400, "invalid_value", None, None),
    "template": (400, "invalid_value", None, None),
    "unknown": (502, "upstream_error", None, None),
    "generation": (502, "upstream_error", None, None),
    "incomplete": (502, "upstream_error", None, None),
    "cuda": (502, "upstream_error", None, None),
    "no_answer": (502, "upstream_error", None, None),
    "not_json": (502, "upstream_error", None, None),
}


@pytest.mark.parametrize(
    ("name", "stream"),
    [(name, True) for name in ERRORS]
    + [(name, False) for name in ERRORS if not name.endswith("_event")],
)
async def test_an_error_before_the_first_token_has_its_true_status(client, name, stream):
    reply = await client.post("/chat/completions", json=chat(f"errors/{name}", stream=stream))
    error = reply.json()["error"]
    *expected, seconds = ERRORS[name]
    assert [reply.status_code, error["code"], error["param"]] == expected
    told = reply.headers.get("retry-after")
    if error["code"] == "model_loading":  # counts from when any client was first told
        assert 1 <= int(told) <= int(seconds)
    else:
        assert told == seconds
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", ["context", "context_event"])
async def test_a_prompt_that_is_too_long_is_named_as_the_client_named_it(client, name):
    body = {"model": f"errors/{name}", "prompt": "Hi", "stream": name.endswith("_event")}
    error = (await client.post("/completions", json=body)).json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "list",
            "Error in `inputs.context`: field required; Error in `inputs.question`: field required",
        ),
        ("validation", "Input validation error: `temperature` must be strictly positive"),
        ("tgi_overloaded", "Model is overloaded"),
        ("detail_object", "Unsupported response_format: srt"),
        ("detail_list", "Input should be a valid number, unable to parse string as a number"),
    ],
)
async def test_the_upstreams_own_sentence_reaches_the_client(client, name, sentence):
    reply = await client.post("/chat/completions", json=chat(f"errors/{name}"))
    assert reply.json()["error"]["message"] == sentence


@pytest.mark.parametrize("name", ["token", "token_old", "gated", "gone", "credits", "quota"])
async def test_what_concerns_the_operator_alone_is_not_told_to_clients(client, name):
    told = recording(f"errors/{name}").body.decode()
    message = (await client.post("/chat/completions", json=chat(f"errors/{name}"))).json()
    assert message["error"]["message"] not in told
    assert "huggingface.co" not in str(message)


async def test_a_page_of_html_is_not_passed_on(client):
    reply = await client.post("/chat/completions", json=chat("errors/overloaded_html"))
    assert "<" not in reply.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_hangs_up_unheard_is_a_502(client, upstream, how, stream):
    async def hang_up(visit: Visit) -> None:
        getattr(visit, how)()

    upstream.play(hang_up)
    reply = await client.post("/chat/completions", json=chat("native/plain", stream=stream))
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_error")


async def test_an_upstream_that_is_not_there_is_a_503(start_gateway):
    gateway = await start_gateway(base_url="http://127.0.0.1:9")
    async with httpx.AsyncClient(headers=gateway.headers) as client:
        url = f"{gateway.base_url}/completions"
        reply = await client.post(url, json={"model": "m", "prompt": "Hi"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "upstream_unreachable")


async def test_a_stream_that_ends_before_its_first_event_is_a_502(client, upstream):
    upstream.play(recording("native/plain.stream").chunked() + LAST_CHUNK)
    reply = await client.post("/chat/completions", json=chat("native/plain", stream=True))
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_error")


async def _reset(visit: Visit) -> None:
    visit.reset()


async def _close(visit: Visit) -> None:
    visit.close()


async def _end(visit: Visit) -> None:
    await visit.send(LAST_CHUNK)


def _rest_of(name: str) -> Any:
    async def send(visit: Visit) -> None:
        rest = recording(name).events[2:]
        await visit.send(*map(chunk, rest), LAST_CHUNK)

    return send


DEATHS = {
    "a reset": (_reset, "upstream_error"),
    "a close inside a chunked body": (_close, "upstream_error"),
    "an orderly end without the last event": (_end, "upstream_error"),
    "a failed generation": (_rest_of("native/fails.stream"), "upstream_error"),
    "an overload": (_rest_of("native/overloads.stream"), "rate_limit_exceeded"),
    "a page of HTML": (_rest_of("native/html.stream"), "upstream_error"),
    "an event that is not JSON": (_rest_of("native/garbage.stream"), "upstream_error"),
}


class _Dying:
    """Plays two events, and a death once the client has seen them."""

    def __init__(self, how: str) -> None:
        self._die, self.code = DEATHS[how]
        self.seen = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        recorded = recording("native/plain.stream")
        await visit.send(recorded.chunked(*recorded.events[:2]))
        await self.seen.wait()
        await self._die(visit)


@pytest.mark.parametrize("how", DEATHS)
async def test_a_stream_that_dies_ends_in_an_error_event_and_nothing_that_looks_whole(
    client, upstream, how
):
    dying = _Dying(how)
    upstream.play(dying)
    body = b""
    path = "/chat/completions"
    async with client.stream("POST", path, json=chat("native/plain", stream=True)) as reply:
        async for block in reply.aiter_bytes():
            body += block
            if b'"content":","' in body:
                dying.seen.set()
    *chunks, last = events_of(body)
    assert text_of(chunks) == "Hello,"
    assert list(last) == ["error"]
    assert last["error"]["code"] == dying.code
    assert last["error"]["message"]
    assert b"[DONE]" not in body
    assert not any(choice["finish_reason"] for choice in choices_of(chunks))


@pytest.mark.parametrize("how", DEATHS)
async def test_a_stream_that_dies_raises_in_the_sdk(gateway, upstream, how):
    dying = _Dying(how)
    upstream.play(dying)
    text = ""
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url, api_key=gateway.key, max_retries=0, timeout=PATIENCE_SECONDS
    ) as sdk:
        stream = await sdk.chat.completions.create(**chat("native/plain", stream=True))
        with pytest.raises(openai.APIError) as raised:
            async for event in stream:
                text += event.choices[0].delta.content or ""
                if text.endswith(","):
                    dying.seen.set()
    assert (raised.value.code, text) == (dying.code, "Hello,")


async def test_one_choice_that_dies_ends_the_stream_of_all(client, upstream):
    dying = _Dying("a reset")
    whole = recording("native/plain.stream")
    upstream.play(dying, whole.whole())
    body = b""
    options = {"stream": True, "n": 2, "temperature": 0}
    path = "/chat/completions"
    async with client.stream("POST", path, json=chat("native/plain", **options)) as reply:
        async for block in reply.aiter_bytes():
            body += block
            if b'"finish_reason":"stop"' in body:
                dying.seen.set()
    events = events_of(body)
    assert list(events[-1]) == ["error"]
    assert len([choice for choice in choices_of(events) if choice["finish_reason"]]) == 1


async def test_a_chunk_that_says_error_null_is_no_error(client):
    reply = await client.post("/chat/completions", json=chat("openai/tgi", stream=True))
    events = events_of(reply.content)
    assert text_of(events) == "Hello"
    assert not any("error" in event for event in events[:-1])


@pytest.mark.parametrize("name", ["openai/cut", "openai/fails"])
async def test_an_openai_stream_that_dies_ends_in_an_error_event(client, upstream, name):
    seen = asyncio.Event()
    recorded = recording(f"{name}.stream")

    async def die(visit: Visit) -> None:
        await visit.send(recorded.chunked(recorded.events[0]))
        await seen.wait()
        await visit.send(*map(chunk, recorded.events[1:]), LAST_CHUNK)

    upstream.play(die)
    body = b""
    path = "/chat/completions"
    async with client.stream("POST", path, json=chat(name, stream=True)) as reply:
        async for block in reply.aiter_bytes():
            body += block
            if b"Hello" in body:
                seen.set()
    *chunks, last = events_of(body)
    assert (text_of(chunks), list(last)) == ("Hello", ["error"])
    assert b"[DONE]" not in body
