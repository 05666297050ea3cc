"""OpenAI's parameters, as the native API is asked for them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.events import chat
from tests.acceptance.recordings import recording

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
MODEL = "native/plain"
ALWAYS: Json = {"details": True, "return_full_text": False}
DRAWN: Json = {**ALWAYS, "do_sample": True, "max_new_tokens": 77}
LIKELIEST: Json = {**ALWAYS, "do_sample": False, "max_new_tokens": 77}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "g"}}
MESSAGE = {"role": "user", "content": "Hi"}
U64 = 2**64


def _format(**fields: Any) -> Json:
    return {"response_format": fields}


def _schema(schema: Json) -> Json:
    return _format(type="json_schema", json_schema={"name": "s", "schema": schema})


def _grammar(schema: Json) -> Json:
    return {"grammar": {"type": "json", "value": schema}}


def _call(names: list[str], arguments: Json) -> Json:
    name = {"type": "string", "enum": names}
    properties = {"name": name, "arguments": arguments}
    return _grammar({"type": "object", "properties": properties, "required": ["name", "arguments"]})


PARAMETERS: dict[str, tuple[Json, Json]] = {
    "sampling is said, for left out it would be greedy": ({}, DRAWN),
    "temperature": ({"temperature": 0.7}, DRAWN | {"temperature": 0.7}),
    "temperature 1 is sent": ({"temperature": 1}, DRAWN | {"temperature": 1}),
    "temperature 0 is greedy": ({"temperature": 0}, LIKELIEST),
    "temperature 0 leaves out what would sample": (
        {"temperature": 0, "top_p": 0.5, "top_k": 5, "typical_p": 0.5},
        LIKELIEST,
    ),
    "a temperature of next to nothing is greedy": ({"temperature": 0.00001}, LIKELIEST),
    "top_p": ({"top_p": 0.9}, DRAWN | {"top_p": 0.9}),
    "top_p 1 is an error there, so left out": ({"top_p": 1}, DRAWN),
    "top_p 0 is an error there, so next to it": ({"top_p": 0}, DRAWN | {"top_p": 0.0001}),
    "top_p next to 1": ({"top_p": 0.99999}, DRAWN | {"top_p": 0.9999}),
    "max_tokens": ({"max_tokens": 5}, DRAWN | {"max_new_tokens": 5}),
    "max_completion_tokens": ({"max_completion_tokens": 5}, DRAWN | {"max_new_tokens": 5}),
    "max_completion_tokens counts more": (
        {"max_tokens": 5, "max_completion_tokens": 6},
        DRAWN | {"max_new_tokens": 6},
    ),
    "one stop": ({"stop": "END"}, DRAWN | {"stop": ["END"]}),
    "four stops": ({"stop": ["a", "b", "c", "d"]}, DRAWN | {"stop": ["a", "b", "c", "d"]}),
    "a fifth stop stays here": (
        {"stop": ["a", "b", "c", "d", "e"]},
        DRAWN | {"stop": ["a", "b", "c", "d"]},
    ),
    "no stop": ({"stop": []}, DRAWN),
    "seed": ({"seed": 42}, DRAWN | {"seed": 42}),
    "a negative seed becomes a u64": ({"seed": -1}, DRAWN | {"seed": U64 - 1}),
    "the SDKs' least seed": (
        {"seed": -9007199254740991},
        DRAWN | {"seed": U64 - 9007199254740991},
    ),
    "frequency_penalty": ({"frequency_penalty": 0.5}, DRAWN | {"frequency_penalty": 0.5}),
    "frequency_penalty 0": ({"frequency_penalty": 0}, DRAWN),
    "presence_penalty 0": ({"presence_penalty": 0}, DRAWN),
    "presence_penalty": ({"presence_penalty": 1}, DRAWN),
    "logprobs": ({"logprobs": True}, DRAWN),
    "top_logprobs": ({"logprobs": True, "top_logprobs": 3}, DRAWN | {"top_n_tokens": 3}),
    "top_logprobs beyond five": (
        {"logprobs": True, "top_logprobs": 9},
        DRAWN | {"top_n_tokens": 5},
    ),
    "top_logprobs without logprobs": ({"logprobs": False, "top_logprobs": 3}, DRAWN),
    "a schema": (_schema(SCHEMA), DRAWN | _grammar(SCHEMA)),
    "a schema as huggingface_hub sends it": (
        _format(type="json_object", value=SCHEMA),
        DRAWN | _grammar(SCHEMA),
    ),
    "a schema as TGI's users send it": (
        _format(type="json", value=SCHEMA),
        DRAWN | _grammar(SCHEMA),
    ),
    "text": (_format(type="text"), DRAWN),
    "a tool that may be called": ({"tools": [TOOL], "tool_choice": "auto"}, DRAWN),
    "a tool that must be called": (
        {"tools": [TOOL], "tool_choice": "required"},
        DRAWN | _call(["f"], SCHEMA),
    ),
    "one of two tools that must be called": (
        {"tools": [TOOL, OTHER], "tool_choice": "required"},
        DRAWN | _call(["f", "g"], {"anyOf": [SCHEMA, {"type": "object"}]}),
    ),
    "a tool chosen by name": (
        {"tools": [TOOL, OTHER], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        DRAWN | _call(["g"], {"type": "object"}),
    ),
    "the native API's own extras": (
        {"top_k": 5, "typical_p": 0.5, "repetition_penalty": 1.1, "truncate": 100},
        DRAWN | {"top_k": 5, "typical_p": 0.5, "repetition_penalty": 1.1, "truncate": 100},
    ),
    "null stands for absent": (
        dict.fromkeys(["temperature", "top_p", "seed", "stop", "n", "tools", "logprobs"]),
        DRAWN,
    ),
}


@pytest.mark.parametrize("case", PARAMETERS)
async def test_parameters_are_those_of_the_native_api(client, upstream, case):
    given, expected = PARAMETERS[case]
    reply = await client.post("/chat/completions", json=chat(MODEL, **given))
    assert reply.status_code == 200, reply.text
    (visit,) = upstream.visits
    assert visit.body["parameters"] == expected
    assert visit.body["inputs"].endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


IGNORED: dict[str, tuple[Json, str | None]] = {
    "nothing": ({}, None),
    "presence_penalty": ({"presence_penalty": 0.5}, "presence_penalty"),
    "presence_penalty 0": ({"presence_penalty": 0}, None),
    "top_logprobs beyond five": ({"logprobs": True, "top_logprobs": 9}, "top_logprobs"),
    "top_logprobs without logprobs": ({"top_logprobs": 2}, "top_logprobs"),
    "unknown fields": ({"min_p": 0.1, "best": {"of": 3}}, "min_p, best"),
    "records about the request": ({"user": "u", "metadata": {"a": "b"}}, None),
    "what would be done anyway": ({"service_tier": "auto", "store": False}, None),
    "store": ({"store": True}, "store"),
    "reasoning_effort": ({"reasoning_effort": "low"}, "reasoning_effort"),
}


@pytest.mark.parametrize("case", IGNORED)
async def test_what_was_left_out_is_named(client, case):
    given, expected = IGNORED[case]
    reply = await client.post("/chat/completions", json=chat(MODEL, **given))
    assert reply.status_code == 200
    assert reply.headers.get("x-dragoman-ignored") == expected


REFUSED: dict[str, tuple[Json, str, str]] = {
    "logit_bias": ({"logit_bias": {"50256": -100}}, "logit_bias", "unsupported_parameter"),
    "json without a schema": (
        _format(type="json_object"),
        "response_format",
        "unsupported_parameter",
    ),
    "a schema and tools": (
        {**_schema(SCHEMA), "tools": [TOOL]},
        "response_format",
        "unsupported_parameter",
    ),
    "a choice of no tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
        "invalid_value",
    ),
    "a call that must be, of no tools": (
        {"tool_choice": "required"},
        "tool_choice",
        "invalid_value",
    ),
    "an allowed tool without a name": (
        {
            "tools": [TOOL],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"function": {}}]},
            },
        },
        "tool_choice.allowed_tools.tools[0].function.name",
        "missing_required_parameter",
    ),
    "audio": (
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
        "modalities",
        "unsupported_parameter",
    ),
    "a tool that is no function": (
        {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
        "tools",
        "unsupported_parameter",
    ),
    "functions": ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    "a temperature out of range": ({"temperature": 2.1}, "temperature", "above_max_value"),
    "a top_p out of range": ({"top_p": -0.1}, "top_p", "below_min_value"),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "below_min_value"),
    "no choices": ({"n": 0}, "n", "below_min_value"),
    "a seed beyond 64 bits": ({"seed": 2**64}, "seed", "above_max_value"),
    "a stop of another type": ({"stop": 1}, "stop", "invalid_type"),
    "no messages": ({"messages": []}, "messages", "empty_array"),
    "a role that is not": (
        {"messages": [{"role": "wizard", "content": "x"}]},
        "messages[0].role",
        "invalid_value",
    ),
}


async def test_tools_that_are_not_allowed_are_neither_shown_nor_called(client, upstream):
    tools = [{"type": "function", "function": {"name": f"get_{it}"}} for it in ("weather", "time")]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools[1:]}}
    body = chat("native/tools", tools=tools, tool_choice=choice)
    message = (await client.post("/chat/completions", json=body)).json()["choices"][0]["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_time"]
    assert "get_time" in upstream.visits[0].body["inputs"]
    assert "get_weather" not in upstream.visits[0].body["inputs"]


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_honoured_is_refused_before_anything_is_sent(client, upstream, case):
    given, param, code = REFUSED[case]
    reply = await client.post("/chat/completions", json=chat(MODEL) | given)
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert upstream.visits == []


async def test_three_choices_are_three_calls_with_seeds_of_their_own(client, upstream):
    reply = await client.post("/chat/completions", json=chat(MODEL, n=3))
    assert [choice["index"] for choice in reply.json()["choices"]] == [0, 1, 2]
    seeds = {visit.body["parameters"]["seed"] for visit in upstream.visits}
    assert len(upstream.visits) == len(seeds) == 3
    assert all(0 <= seed < U64 for seed in seeds)


async def test_choices_of_a_given_seed_count_up_from_it(client, upstream):
    await client.post("/chat/completions", json=chat(MODEL, n=3, seed=-1))
    seeds = [visit.body["parameters"]["seed"] for visit in upstream.visits]
    assert sorted(seeds) == [0, 1, U64 - 1]


async def test_the_prompt_of_three_choices_counts_once(client):
    reply = await client.post("/chat/completions", json=chat(MODEL, n=3))
    usage = reply.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (11, 24)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "0"), ({"n": 2}, "0"), ({"seed": 1}, None), ({"temperature": 0}, None)],
)
async def test_only_answers_drawn_without_a_seed_pass_the_upstreams_cache_by(
    client, upstream, given, expected
):
    await client.post("/chat/completions", json=chat(MODEL, **given))
    assert {visit.headers.get("x-use-cache") for visit in upstream.visits} == {expected}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_task_api_is_told_in_the_body_whether_to_stream(client, upstream, stream):
    await client.post("/chat/completions", json=chat(MODEL, stream=stream))
    (visit,) = upstream.visits
    assert (visit.method, visit.path) == ("POST", "/hf-inference/models/native/plain")
    assert visit.body["stream"] is stream


async def test_tgi_is_told_by_the_path_whether_to_stream(client, upstream):
    answer, stream = recording("native/plain.answer"), recording("native/plain.stream")
    body = answer.body.removeprefix(b"[").removesuffix(b"]")
    upstream.play(type(answer)(answer.head, body).whole(), stream.whole())
    whole = await client.post("/chat/completions", json=chat("tgi"))
    await client.post("/chat/completions", json=chat("tgi", stream=True))
    first, second = upstream.visits
    assert whole.json()["choices"][0]["message"]["content"] == "Hello, 世界!\u2028Bye"
    assert (first.path, second.path) == ("/tgi/generate", "/tgi/generate_stream")
    assert "stream" not in first.body | second.body


async def test_a_completion_sends_its_prompt_as_it_is_and_sixteen_tokens_by_default(
    client, upstream
):
    prompt = "Once <|im_start|> upon"
    await client.post("/completions", json={"model": MODEL, "prompt": prompt})
    (visit,) = upstream.visits
    assert visit.body["inputs"] == prompt
    assert visit.body["parameters"]["max_new_tokens"] == 16


async def test_several_prompts_are_several_calls_in_order(client, upstream):
    prompts = ["a", "b"]
    reply = await client.post("/completions", json={"model": MODEL, "prompt": prompts, "n": 2})
    assert sorted(visit.body["inputs"] for visit in upstream.visits) == ["a", "a", "b", "b"]
    assert [choice["index"] for choice in reply.json()["choices"]] == [0, 1, 2, 3]
    assert reply.json()["usage"]["prompt_tokens"] == 22


@pytest.mark.parametrize("echo", [False, True])
async def test_a_completion_repeats_its_prompt_only_if_asked(client, echo):
    body = {"model": MODEL, "prompt": "Say: ", "echo": echo}
    reply = await client.post("/completions", json=body)
    assert reply.json()["choices"][0]["text"].startswith("Say: Hello") is echo


@pytest.mark.parametrize(("best_of", "ignored"), [(1, None), (2, None), (3, "best_of")])
async def test_a_best_of_more_than_are_given_is_left_out_and_named(client, best_of, ignored):
    body = {"model": MODEL, "prompt": "Hi", "n": 2, "best_of": best_of}
    reply = await client.post("/completions", json=body)
    assert len(reply.json()["choices"]) == 2
    assert reply.headers.get("x-dragoman-ignored") == ignored


async def test_a_completions_log_probabilities_come_as_lists(client, upstream):
    body = {"model": "native/logprobs", "prompt": "Hi", "logprobs": 1}
    reply = await client.post("/completions", json=body)
    logprobs = reply.json()["choices"][0]["logprobs"]
    assert upstream.visits[0].body["parameters"]["top_n_tokens"] == 1
    assert logprobs["tokens"] == ["Yes", "."]
    assert logprobs["token_logprobs"] == [-0.5, -0.625]
    assert logprobs["text_offset"] == [0, 3]
    assert logprobs["top_logprobs"][0] == {"Yes": -0.5, "No": -1.5}
