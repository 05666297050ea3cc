"""Which chat a Responses request asks for, and what of it cannot be had here."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.errors import BadRequest
from gateway.requests import CHAT, parse_body
from gateway.responses.request import Asked, parse_responses

Json = dict[str, Any]

HELLO = {"role": "user", "content": "Hello"}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
CHAT_FUNCTION = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object"}, "strict": False},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def ask(**fields: Any) -> Asked:
    return parse_responses(json.dumps({"model": "m", "input": "Hello", **fields}).encode())


def said(*items: Json) -> list[Json]:
    """Return the messages that these items make."""
    messages: list[Json] = ask(input=list(items)).body["messages"]
    return messages


# Each pair is one request, in both APIs.
EQUAL: dict[str, tuple[Json, Json]] = {
    "the least": ({}, {}),
    "instructions": (
        {"instructions": "Be brief."},
        {"messages": [{"role": "system", "content": "Be brief."}, HELLO]},
    ),
    "sampling": (
        {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["x"], "frequency_penalty": 1},
        {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["x"], "frequency_penalty": 1},
    ),
    "a limit": ({"max_output_tokens": 9}, {"max_tokens": 9}),
    "records": (
        {"metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k"},
        {"metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k"},
    ),
    "a stream": (
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"stream": True},
    ),
    "a function": (
        {"tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [CHAT_FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
    ),
    "a named function": (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}},
        {"tools": [CHAT_FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    ),
    "allowed functions": (
        {
            "tools": [FUNCTION],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}],
            },
        },
        {
            "tools": [CHAT_FUNCTION],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "f"}}],
                },
            },
        },
    ),
    "a custom tool": (
        {
            "tools": [
                {
                    "type": "custom",
                    "name": "patch",
                    "description": "Edit.",
                    "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"},
                }
            ],
            "tool_choice": {"type": "custom", "name": "patch"},
        },
        {
            "tools": [
                {
                    "type": "custom",
                    "custom": {
                        "name": "patch",
                        "description": "Edit.",
                        "format": {
                            "type": "grammar",
                            "grammar": {"syntax": "lark", "definition": "start: X"},
                        },
                    },
                }
            ],
            "tool_choice": {"type": "custom", "custom": {"name": "patch"}},
        },
    ),
    "a namespace": (
        {"tools": [{"type": "namespace", "name": "ns", "description": "", "tools": [FUNCTION]}]},
        {
            "tools": [
                {
                    "type": "function",
                    "function": CHAT_FUNCTION["function"] | {"name": "ns__f"},
                }
            ]
        },
    ),
    "no tools to choose from": (
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {},
    ),
    "text": ({"text": {"format": {"type": "text"}}}, {}),
    "verbosity": ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
    "JSON": (
        {"text": {"format": {"type": "json_object"}}},
        {"response_format": {"type": "json_object"}},
    ),
    "a schema": (
        {
            "text": {
                "format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    "effort": ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
    "log probabilities": (
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 2},
    ),
    "only log probabilities": (
        {"include": ["message.output_text.logprobs"]},
        {"logprobs": True},
    ),
    "what only servers know": ({"min_p": 0.1}, {"min_p": 0.1}),
    "what has no effect here": (
        {"store": True, "truncation": "auto", "background": False, "max_tool_calls": 2},
        {},
    ),
    "what Codex records": ({"client_metadata": {"thread_id": "1"}, "store": False}, {}),
    "what only chats have": ({"n": 3, "messages": [], "logprobs": True, "max_tokens": 1}, {}),
}


@pytest.mark.parametrize("name", EQUAL)
def test_a_request_asks_for_the_same_chat_as_one_of_the_chat_api(name):
    fields, chat_fields = EQUAL[name]
    chat = {"model": "m", "messages": [HELLO], **chat_fields}
    assert ask(**fields).body == parse_body(CHAT, json.dumps(chat).encode())


TEXT = {"type": "input_text", "text": "a"}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}


def test_parts_of_content_are_those_of_a_chat():
    file = {"type": "input_file", "file_data": "data:,x", "filename": "a.pdf"}
    sound = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    [message] = said({"role": "user", "content": [TEXT, IMAGE, file, sound]})
    assert message["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": IMAGE["image_url"], "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:,x", "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_a_message_of_one_text_is_a_string(role):
    assert said({"type": "message", "role": role, "content": [TEXT]}) == [
        {"role": role, "content": "a"}
    ]


def test_what_the_assistant_said_and_called_is_one_message():
    answer = {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed"}
    answer["content"] = [{"type": "output_text", "text": "Wait.", "annotations": []}]
    outputs = [
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [TEXT]},
    ]
    assert said(HELLO, answer, CALL, CALL | {"call_id": "c2", "namespace": "ns"}, *outputs) == [
        HELLO,
        {
            "role": "assistant",
            "content": "Wait.",
            "tool_calls": [
                CHAT_CALL,
                {"id": "c2", "type": "function", "function": {"name": "ns__f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "a"},
    ]


def test_calls_after_a_result_are_another_message():
    output = {"type": "function_call_output", "call_id": "c1", "output": "1"}
    roles = [message["role"] for message in said(HELLO, CALL, output, CALL, output)]
    assert roles == ["user", "assistant", "tool", "assistant", "tool"]


def test_a_call_of_a_custom_tool_keeps_its_input():
    call = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "***"}
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"}
    assert said(HELLO, call, output)[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "***"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
    ]


def test_reasoning_goes_with_what_the_assistant_said_next():
    reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "not this"}],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
    }
    assert said(HELLO, reasoning, CALL)[1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [CHAT_CALL],
        "reasoning_content": "Hm.",
    }


@pytest.mark.parametrize(
    "reasoning",
    [
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
        {"type": "reasoning", "summary": [], "content": None},
        {"type": "item_reference", "id": "rs_1"},
    ],
)
def test_reasoning_that_nobody_here_can_read_is_left_out(reasoning):
    assert said(HELLO, reasoning, CALL)[1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [CHAT_CALL],
    }


def test_reasoning_before_what_others_said_is_left_out():
    reasoning = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    assert said(reasoning, HELLO, CALL)[1].get("reasoning_content") is None


UNHEARD: dict[str, tuple[Json, tuple[str, ...]]] = {
    "nothing": ({"store": False, "truncation": "disabled", "include": []}, ()),
    "encrypted reasoning": (
        {"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]},
        ("include.reasoning.encrypted_content",),
    ),
    "an unknown inclusion": ({"include": ["x"]}, ("include.x",)),
    "summaries": ({"reasoning": {"summary": "auto", "effort": "low"}}, ("reasoning.summary",)),
    "truncation": ({"truncation": "auto"}, ("truncation",)),
    "storing": ({"store": True}, ("store",)),
    "choices": ({"n": 2}, ("n",)),
    "what OpenAI does": ({"moderation": {"model": "x"}}, ("moderation",)),
    "what agents add": (
        {"tools": [FUNCTION, {"type": "web_search"}, {"type": "tool_search"}]},
        ("tools.web_search", "tools.tool_search"),
    ),
}


@pytest.mark.parametrize("name", UNHEARD)
def test_what_is_left_out_is_named(name):
    fields, names = UNHEARD[name]
    assert ask(**fields).unheard == names


REFUSED: dict[str, tuple[Json, str, str]] = {
    "a stored response": (
        {"previous_response_id": "resp_1"},
        "previous_response_id",
        "Send the whole conversation as 'input'.",
    ),
    "a conversation": ({"conversation": "conv_1"}, "conversation", "Send the whole conversation"),
    "a stored prompt": ({"prompt": {"id": "pmpt_1"}}, "prompt", "Send the prompt's text"),
    "the background": ({"background": True}, "background", "'stream'"),
    "a stored item": (
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        "input[0]",
        "Send the item itself",
    ),
    "a stored image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
        "input[0].content[0]",
        "'image_url'",
    ),
    "a file elsewhere": (
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}]},
        "input[0].content[0]",
        "'file_data'",
    ),
    "a search for its own sake": (
        {"tools": [{"type": "web_search"}]},
        "tools[0].type",
        "web_search",
    ),
    **{
        kind: ({"tools": [FUNCTION, {"type": kind}]}, "tools[1].type", kind)
        for kind in ("file_search", "code_interpreter", "mcp", "computer", "local_shell", "shell")
    },
    "a hosted tool by choice": (
        {"tools": [FUNCTION], "tool_choice": {"type": "web_search_preview"}},
        "tool_choice.type",
        "web_search_preview",
    ),
    "no input": ({"input": None}, "input", "Missing required parameter"),
    "an empty input": ({"input": []}, "input", "at least 1 items"),
    "reasoning alone": ({"input": [{"type": "reasoning"}]}, "input", "holds no message"),
    "an unknown item": ({"input": [{"type": "x"}]}, "input[0].type", "'x'"),
    "a message of nobody": ({"input": [{"content": "a"}]}, "input[0].role", "Missing"),
    "a chat's part": (
        {"input": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "input[0].content[0].type",
        "'image_url'",
    ),
    "a chat's function": (
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        "tools[0].name",
        "Missing required parameter",
    ),
    "a tool without type": ({"tools": [{}]}, "tools[0].type", "Missing required parameter"),
    "a number for a tool": ({"tools": [5]}, "tools[0]", "expected an object"),
    "a schema without name": (
        {"text": {"format": {"type": "json_schema", "schema": {}}}},
        "text.format.name",
        "Missing required parameter",
    ),
    "too hot": ({"temperature": 3}, "temperature", "<= 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_refused_by_name(name):
    fields, param, words = REFUSED[name]
    with pytest.raises(BadRequest) as caught:
        ask(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert words in caught.value.message


RICH: Json = {
    "model": "m",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [TEXT, IMAGE, {"type": "input_file", "file_data": "data:,x"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
        CALL | {"namespace": "ns"},
        {"type": "function_call_output", "call_id": "c1", "output": [TEXT]},
        {"type": "custom_tool_call", "call_id": "c2", "name": "p", "input": "i"},
        {"type": "item_reference", "id": "rs_1"},
    ],
    "tools": [
        FUNCTION,
        {"type": "web_search"},
        {"type": "namespace", "name": "ns", "description": "", "tools": [FUNCTION]},
        {"type": "custom", "name": "p", "format": {"type": "grammar", "definition": "x"}},
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}],
    },
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "top_logprobs": 2,
    "max_output_tokens": 9,
    "metadata": {"a": "b"},
    "store": True,
    "truncation": "auto",
}
ODD = (None, True, 5, "x", [], [5], [[]], {}, {"type": 5}, {"type": [1]}, {"type": "function"})


def places_in(value: Any, path: tuple[int | str, ...] = ()) -> Iterator[tuple[int | str, ...]]:
    """Yield the way to each value inside of `value`."""
    steps: Any = value.items() if isinstance(value, dict) else ()
    for step, inner in enumerate(value) if isinstance(value, list) else steps:
        yield (*path, step)
        yield from places_in(inner, (*path, step))


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_whatever_is_sent_becomes_a_valid_chat_or_a_refusal(odd):
    chats = 0
    for *way, last in places_in(RICH):
        body = copy.deepcopy(RICH)
        inner = body
        for step in way:
            inner = inner[step]
        inner[last] = odd
        try:
            chat = parse_responses(json.dumps(body).encode()).body
        except BadRequest as refusal:
            assert refusal.status == 400
        else:
            CHAT.validate_python(chat)
            chats += 1
    assert chats  # as some fields may be anything
