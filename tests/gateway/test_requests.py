"""What is accepted of OpenAI's request bodies, and how the rest is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import BadRequest
from gateway.requests import CHAT, COMPLETION, parse_body

MESSAGE = {"role": "user", "content": "Hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MINIMAL = {
    "chat": {"model": "m", "messages": [MESSAGE]},
    "completion": {"model": "m", "prompt": "Hello"},
}
ADAPTERS = {"chat": CHAT, "completion": COMPLETION}


def parse(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    body = MINIMAL[kind] | fields
    return parse_body(ADAPTERS[kind], json.dumps(body).encode())


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [MESSAGE, fields]}


def part(**fields: Any) -> dict[str, Any]:
    return message(role="user", content=[{"type": "text", "text": "a"}, fields])


def call(**fields: Any) -> dict[str, Any]:
    return message(role="assistant", tool_calls=[CALL | fields])


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": function}]}


MANY_BIASES = dict.fromkeys(map(str, range(1025)), 0)
TYPE, VALUE, MISSING = "invalid_type", "invalid_value", "missing_required_parameter"
LOW, HIGH = "below_min_value", "above_max_value"

BOTH = [
    ({"model": 5}, "model", TYPE),
    ({"model": None}, "model", TYPE),
    ({"model": ["m"]}, "model", TYPE),
    ({"stream": "true"}, "stream", TYPE),
    ({"stream": 1}, "stream", TYPE),
    ({"stream_options": True}, "stream_options", TYPE),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage", TYPE),
    ({"temperature": "1"}, "temperature", TYPE),
    ({"temperature": True}, "temperature", TYPE),
    ({"temperature": -0.1}, "temperature", LOW),
    ({"temperature": 2.1}, "temperature", HIGH),
    ({"top_p": -0.1}, "top_p", LOW),
    ({"top_p": 1.1}, "top_p", HIGH),
    ({"top_p": {}}, "top_p", TYPE),
    ({"frequency_penalty": -2.1}, "frequency_penalty", LOW),
    ({"presence_penalty": 2.1}, "presence_penalty", HIGH),
    ({"n": 0}, "n", LOW),
    ({"n": 129}, "n", HIGH),
    ({"n": 1.5}, "n", TYPE),
    ({"n": True}, "n", TYPE),
    ({"stop": 5}, "stop", TYPE),
    ({"stop": [5]}, "stop[0]", TYPE),
    ({"stop": ["a", None]}, "stop[1]", TYPE),
    ({"stop": ["a"] * 65}, "stop", "array_above_max_length"),
    ({"seed": "7"}, "seed", TYPE),
    ({"seed": 1.5}, "seed", TYPE),
    ({"seed": 10**30}, "seed", HIGH),
    ({"seed": -(10**30)}, "seed", LOW),
    ({"logit_bias": []}, "logit_bias", TYPE),
    ({"logit_bias": {"50256": "x"}}, "logit_bias.50256", TYPE),
    (
        {"logit_bias": dict.fromkeys(map(str, range(1025)), 0)},
        "logit_bias",
        "array_above_max_length",
    ),
    ({"user": 5}, "user", TYPE),
    ({"top_k": 0}, "top_k", LOW),
    ({"typical_p": 1}, "typical_p", HIGH),
    ({"typical_p": 0}, "typical_p", LOW),
    ({"repetition_penalty": 0}, "repetition_penalty", LOW),
    ({"truncate": 0}, "truncate", LOW),
]
ONLY_CHAT = [
    ({"messages": None}, "messages", TYPE),
    ({"messages": "Hello"}, "messages", TYPE),
    ({"messages": {}}, "messages", TYPE),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": ["Hello"]}, "messages[0]", TYPE),
    ({"messages": [[]]}, "messages[0]", TYPE),
    ({"messages": [None]}, "messages[0]", TYPE),
    (message(), "messages[1].role", MISSING),
    (message(role="king", content=""), "messages[1].role", VALUE),
    (message(role=5, content=""), "messages[1].role", VALUE),
    (message(role=None, content=""), "messages[1].role", VALUE),
    (message(role=["user"], content=""), "messages[1].role", VALUE),
    (message(role="user"), "messages[1].content", MISSING),
    (message(role="system"), "messages[1].content", MISSING),
    (message(role="user", content=5), "messages[1].content", TYPE),
    (message(role="user", content={}), "messages[1].content", TYPE),
    (message(role="user", content=[5]), "messages[1].content[0]", TYPE),
    (message(role="user", content=["a"]), "messages[1].content[0]", TYPE),
    (part(), "messages[1].content[1].type", MISSING),
    (part(type="smell"), "messages[1].content[1].type", VALUE),
    (part(type="text"), "messages[1].content[1].text", MISSING),
    (part(type="text", text=5), "messages[1].content[1].text", TYPE),
    (part(type="image_url"), "messages[1].content[1].image_url", MISSING),
    (part(type="image_url", image_url="u"), "messages[1].content[1].image_url", TYPE),
    (part(type="image_url", image_url={}), "messages[1].content[1].image_url.url", MISSING),
    (part(type="input_audio", input_audio=5), "messages[1].content[1].input_audio", TYPE),
    (part(type="file"), "messages[1].content[1].file", MISSING),
    (message(role="tool", content="a"), "messages[1].tool_call_id", MISSING),
    (message(role="tool", content="a", tool_call_id=5), "messages[1].tool_call_id", TYPE),
    (message(role="function", content="a"), "messages[1].name", MISSING),
    (message(role="assistant", content=5), "messages[1].content", TYPE),
    (message(role="assistant", tool_calls={}), "messages[1].tool_calls", TYPE),
    (call(id=None), "messages[1].tool_calls[0].id", TYPE),
    (call(type="spell"), "messages[1].tool_calls[0].type", VALUE),
    (call(function="f"), "messages[1].tool_calls[0].function", TYPE),
    (call(function={"arguments": ""}), "messages[1].tool_calls[0].function.name", MISSING),
    (
        call(function={"name": "f", "arguments": {}}),
        "messages[1].tool_calls[0].function.arguments",
        TYPE,
    ),
    ({"max_tokens": 0}, "max_tokens", LOW),
    ({"max_tokens": "5"}, "max_tokens", TYPE),
    ({"max_tokens": 2**31}, "max_tokens", HIGH),
    ({"max_completion_tokens": -1}, "max_completion_tokens", LOW),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens", TYPE),
    ({"logprobs": 1}, "logprobs", TYPE),
    ({"top_logprobs": 21}, "top_logprobs", HIGH),
    ({"top_logprobs": -1}, "top_logprobs", LOW),
    ({"tools": {}}, "tools", TYPE),
    ({"tools": [5]}, "tools[0]", TYPE),
    ({"tools": [{}]}, "tools[0].type", MISSING),
    ({"tools": [{"type": "hammer"}]}, "tools[0].type", VALUE),
    ({"tools": [{"type": "function"}]}, "tools[0].function", MISSING),
    (tool(), "tools[0].function.name", MISSING),
    (tool(name=5), "tools[0].function.name", TYPE),
    (tool(name=""), "tools[0].function.name", "empty_string"),
    (tool(name="f" * 257), "tools[0].function.name", "string_above_max_length"),
    (tool(name="f", parameters=[]), "tools[0].function.parameters", TYPE),
    (tool(name="f", strict="yes"), "tools[0].function.strict", TYPE),
    ({"tools": [{"type": "custom"}]}, "tools[0].custom", MISSING),
    ({"tool_choice": "maybe"}, "tool_choice", VALUE),
    ({"tool_choice": 5}, "tool_choice", VALUE),
    ({"tool_choice": {}}, "tool_choice.type", MISSING),
    ({"tool_choice": {"type": "hammer"}}, "tool_choice.type", VALUE),
    ({"tool_choice": {"type": ["function"]}}, "tool_choice.type", VALUE),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function", MISSING),
    ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name", MISSING),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}}},
        "tool_choice.allowed_tools.mode",
        VALUE,
    ),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
        "tool_choice.allowed_tools.tools",
        MISSING,
    ),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls", TYPE),
    ({"response_format": "json"}, "response_format", TYPE),
    ({"response_format": {}}, "response_format.type", MISSING),
    ({"response_format": {"type": "xml"}}, "response_format.type", VALUE),
    (
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format.json_schema.name",
        MISSING,
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
        "response_format.json_schema.schema",
        TYPE,
    ),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", TYPE),
]
ONLY_COMPLETION = [
    ({"prompt": 5}, "prompt", TYPE),
    ({"prompt": {}}, "prompt", TYPE),
    ({"prompt": []}, "prompt", "empty_array"),
    ({"prompt": [True]}, "prompt[0]", TYPE),
    ({"prompt": ["a", 1]}, "prompt[1]", TYPE),
    ({"prompt": [1, "a"]}, "prompt[1]", TYPE),
    ({"prompt": [[1], ["a"]]}, "prompt[1][0]", TYPE),
    ({"prompt": [1.5]}, "prompt[0]", TYPE),
    ({"prompt": ["a"] * 2049}, "prompt", "array_above_max_length"),
    ({"max_tokens": -1}, "max_tokens", LOW),
    ({"logprobs": 6}, "logprobs", HIGH),
    ({"logprobs": True}, "logprobs", TYPE),
    ({"best_of": 21}, "best_of", HIGH),
    ({"echo": "yes"}, "echo", TYPE),
    ({"suffix": 5}, "suffix", TYPE),
]
WRONG = [
    *(("chat", *case) for case in BOTH + ONLY_CHAT),
    *(("completion", *case) for case in BOTH + ONLY_COMPLETION),
]


@pytest.mark.parametrize(("kind", "fields", "param", "code"), WRONG)
def test_the_wrong_parameter_is_named(
    kind: str, fields: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(kind, fields)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert (refused.value.status, refused.value.type) == (400, "invalid_request_error")
    assert repr(param) in refused.value.message
    assert "another type" not in refused.value.message


@pytest.mark.parametrize(
    ("kind", "name"), [("chat", "model"), ("chat", "messages"), ("completion", "model")]
)
def test_a_missing_parameter_is_named(kind: str, name: str) -> None:
    body = {key: value for key, value in MINIMAL[kind].items() if key != name}
    with pytest.raises(BadRequest) as refused:
        parse_body(ADAPTERS[kind], json.dumps(body).encode())
    assert (refused.value.param, refused.value.code) == (name, MISSING)


def test_of_several_wrong_parameters_one_is_named() -> None:
    with pytest.raises(BadRequest) as refused:
        parse("chat", {"temperature": 9, "n": 0, "stop": 5})
    assert refused.value.param in ("temperature", "n", "stop")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(5, "5"), (None, "null"), (True, "true"), ("x", "'x'"), ({"a": [1]}, '{"a":[1]}')],
)
def test_a_wrong_value_is_shown_as_it_was_sent(value: object, shown: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse("chat", message(role=value, content=""))
    assert f": {shown}. Supported values are: 'developer'" in refused.value.message


@pytest.mark.parametrize(
    "fields",
    [
        message(role="k" * 1_000_000, content=""),
        message(role={"k": ["k"] * 100_000}, content=""),
        {"logit_bias": {"k" * 1_000_000: "x"}},
        {"tool_choice": "k" * 1_000_000},
    ],
)
def test_a_refusal_is_short_whatever_was_sent(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        parse("chat", fields)
    assert len(refused.value.body()) < 500


ACCEPTED = [
    *(
        (kind, dict.fromkeys(names))
        for kind, names in {
            "chat": "stream stream_options temperature top_p n stop seed logit_bias user tools "
            "tool_choice response_format max_tokens max_completion_tokens logprobs".split(),
            "completion": "stream temperature n stop prompt max_tokens logprobs echo".split(),
        }.items()
    ),
    ("chat", {"unknown": {"deep": [1, None]}, "store": True, "metadata": {"a": "b"}}),
    ("chat", message(role="assistant")),
    ("chat", message(role="assistant", content=None, tool_calls=[CALL], reasoning_content="x")),
    ("chat", message(role="assistant", content=[{"type": "refusal", "refusal": "no"}])),
    ("chat", message(role="developer", content="a", name="b", extra=1)),
    ("chat", message(role="tool", tool_call_id="1", content=[{"type": "text", "text": "a"}])),
    ("chat", part(type="image_url", image_url={"url": "data:,", "detail": "low"})),
    ("chat", part(type="text", text="a", prompt_cache_breakpoint={"mode": "explicit"})),
    ("chat", tool(name="f")),
    ("chat", tool(name="f", parameters={"$schema": "x", "type": "object"}, strict=None)),
    ("chat", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}),
    ("chat", {"tool_choice": {"type": "custom", "custom": {"name": "f"}}}),
    ("chat", {"temperature": 1, "top_p": 0, "frequency_penalty": -2, "seed": -9007199254740991}),
    ("chat", {"stream": False, "stream_options": {"include_usage": True}}),
    ("chat", {"stop": []}),
    ("completion", {"prompt": ["a", "b"]}),
    ("completion", {"prompt": [1, 2]}),
    ("completion", {"prompt": [[1], [2, 3]]}),
    ("completion", {"max_tokens": 0, "logprobs": 5, "best_of": 1}),
]


@pytest.mark.parametrize(("kind", "fields"), ACCEPTED)
def test_what_sdks_send_is_accepted_and_kept(kind: str, fields: dict[str, Any]) -> None:
    kept = {name: value for name, value in (MINIMAL[kind] | fields).items() if value is not None}
    assert parse(kind, fields) == kept


def test_of_repeated_names_the_last_counts() -> None:
    body = parse_body(COMPLETION, b'{"model": "a", "prompt": "x", "model": "b"}')
    assert body["model"] == "b"
