"""Servers that already speak OpenAI: what only they know goes through, what deviates is mended."""

from __future__ import annotations

import pytest

from tests.acceptance.events import DONE, chat, choices_of, events_of, text_of
from tests.acceptance.recordings import recording

pytestmark = pytest.mark.anyio

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


async def _streamed(client, model, **fields):
    reply = await client.post("/chat/completions", json=chat(model, stream=True, **fields))
    return events_of(reply.content)


async def test_fields_that_are_unknown_here_reach_the_upstream(client, upstream):
    fields = {
        "min_p": 0.1,
        "guided_json": {"type": "object"},
        "logit_bias": {"1": 2},
        "reasoning_effort": "low",
        "messages": [{"role": "user", "content": "Hi", "name": "al", "cache": {"ttl": 5}}],
    }
    reply = await client.post("/chat/completions", json=chat("openai/vllm") | fields)
    (visit,) = upstream.visits
    assert visit.path == "/v1/chat/completions"
    assert visit.body == {"model": "openai/vllm"} | fields
    assert "x-dragoman-ignored" not in reply.headers


async def test_fields_that_are_unknown_here_reach_the_client(client):
    answer = (await client.post("/chat/completions", json=chat("openai/vllm"))).json()
    assert answer["kv_transfer_params"] == {"block": 3}
    assert answer["service_tier"] == "default"
    assert answer["choices"][0]["token_ids"] == [8, 9]
    assert answer["choices"][0]["message"]["content"] == "Hello"


async def test_chunks_keep_fields_that_are_unknown_here(client):
    events = await _streamed(client, "openai/vllm")
    assert [event["kv_transfer_params"] for event in events if "kv_transfer_params" in event] == [
        {"block": 3}
    ]
    tokens = [choice["token_ids"] for choice in choices_of(events) if "token_ids" in choice]
    assert tokens[:2] == [[7], [8]]


async def test_reasoning_is_said_under_both_names(client):
    answer = (await client.post("/chat/completions", json=chat("openai/vllm"))).json()
    deltas = [choice["delta"] for choice in choices_of(await _streamed(client, "openai/vllm"))]
    message = answer["choices"][0]["message"]
    assert (message["reasoning"], message["reasoning_content"]) == ("Hm.", "Hm.")
    assert {"reasoning_content": "Hm.", "reasoning": "Hm."} in deltas


async def test_a_stream_says_what_the_upstream_says_in_the_canonical_order(client):
    events = await _streamed(client, "openai/vllm")
    assert text_of(events) == "Hello"
    roles = [choice["delta"].get("role") for choice in choices_of(events)]
    reasons = [choice["finish_reason"] for choice in choices_of(events)]
    assert (roles[0], set(roles[1:])) == ("assistant", {None})
    assert (set(reasons[:-1]), reasons[-1]) == ({None}, "stop")


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
async def test_usage_in_every_chunk_is_taken_out_unless_asked_for(client, options):
    events = await _streamed(client, "openai/vllm", stream_options=options)
    assert not any("usage" in event for event in events[:-1])


async def test_usage_asked_for_is_null_in_all_chunks_but_the_last(client):
    events = await _streamed(client, "openai/vllm", stream_options={"include_usage": True})
    *chunks, last, done = events
    assert {str(event["usage"]) for event in chunks} == {"None"}
    assert last["choices"] == []
    assert last["usage"].items() >= USAGE.items()
    assert done == DONE


async def test_the_upstream_is_always_asked_for_usage(client, upstream):
    await _streamed(client, "openai/vllm", stream_options={"include_obfuscation": False})
    (visit,) = upstream.visits
    options = {"include_obfuscation": False, "include_usage": True}
    assert visit.body["stream_options"] == options


@pytest.mark.parametrize("model", ["openai/vllm", "openai/tgi"])
async def test_id_model_and_time_are_the_gateways_own_and_the_same_in_all_chunks(client, model):
    *chunks, _ = await _streamed(client, model)
    heads = {(event["id"], event["object"], event["created"], event["model"]) for event in chunks}
    ((chunk_id, kind, created, name),) = heads
    assert (chunk_id.startswith("chatcmpl-"), kind, name) == (True, "chat.completion.chunk", model)
    assert isinstance(created, int)
    assert len(chunk_id) > len("chatcmpl-")


async def test_a_native_finish_reason_becomes_openais(client):
    events = await _streamed(client, "openai/tgi")
    answer = (await client.post("/chat/completions", json=chat("openai/bare_tools"))).json()
    assert choices_of(events)[-1]["finish_reason"] == "stop"
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert answer["object"] == "chat.completion"


async def test_tool_ids_and_names_come_once_and_indexes_count_up(client):
    for model in ("openai/repeated_tools", "openai/bare_tools"):
        deltas = [choice["delta"] for choice in choices_of(await _streamed(client, model))]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        begun = [call for call in calls if "id" in call]
        assert [(call["index"], call["id"]) for call in begun] == [(0, "call_1"), (1, "call_2")]
        assert all(call["type"] == "function" for call in begun)
        assert all(set(call["function"]) == {"arguments"} for call in calls if "id" not in call)
        assert deltas[0] == {"role": "assistant", "content": None}


async def test_legacy_completions_are_streamed_through(client, upstream):
    body = {"model": "openai/legacy", "prompt": "Hi", "stream": True, "suffix": "!"}
    events = events_of((await client.post("/completions", json=body)).content)
    (visit,) = upstream.visits
    assert (visit.path, visit.body["suffix"]) == ("/v1/completions", "!")
    assert text_of(events) == "Hello"
    assert {event["object"] for event in events[:-1]} == {"text_completion"}
    assert choices_of(events)[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_of_completions_lose_the_form_of_a_chats(client, stream):
    body = {"model": "openai/llama_prompts", "prompt": ["One two", "red green"], "logprobs": 1}
    answer = await client.post("/completions", json=body | {"stream": stream})

    choices = choices_of(events_of(answer.content)) if stream else answer.json()["choices"]
    told = [choice["logprobs"] for choice in choices if choice["index"] and choice["logprobs"]]
    assert {name: [one for said in told for one in said[name]] for name in told[0]} == {
        "tokens": [" apples", " have"],
        "token_logprobs": [-5.408719539642334, -3.7282180786132813],
        "top_logprobs": [{",": -2.479701280593872}, {",": -1.3617249727249146}],
        "text_offset": [0, 7],
    }


async def test_what_comes_after_done_is_not_waited_for(client, upstream):
    recorded = recording("openai/vllm.stream")
    upstream.play(recorded.chunked(*recorded.events))  # and no last chunk
    assert (await _streamed(client, "openai/vllm"))[-1] == DONE
