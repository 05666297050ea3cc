"""Applications on OpenAI's official SDKs get what they get from OpenAI, errors included."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from tests.acceptance.sdks import Sdk, node_sdk, old_python_sdk, python_sdk
from tests.gateway_fixture import Gateway

pytestmark = pytest.mark.anyio

SDKS: dict[str, Callable[[], Sdk]] = {
    "python": partial(python_sdk, "sync"),
    "python-async": partial(python_sdk, "async"),
    "python-1.109": partial(old_python_sdk, "sync"),
    "python-1.109-async": partial(old_python_sdk, "async"),
    "node": node_sdk,
}
TEXT = "Hello, 世界!\u2028Bye"
WEATHER = ["function", "get_weather", '{"city": "Paris"}']
TIME = ["function", "get_time", "{}"]


@pytest.fixture(scope="module", params=SDKS)
async def facts(request: pytest.FixtureRequest, gateway: Gateway) -> dict[str, Any]:
    """What the scenarios saw under one SDK."""
    sdk = SDKS[request.param]()
    ran = await anyio.run_process(
        sdk.run(gateway.base_url, gateway.key),
        env=os.environ | dict(sdk.env),
        stderr=subprocess.PIPE,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    seen: dict[str, Any] = json.loads(ran.stdout)
    assert seen["version"] == sdk.version
    return seen


def _final(content: str | None, finish_reason: str, *calls: list[str]) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {**message, "finish_reason": finish_reason, "calls": list(calls)}


async def test_a_chat_is_answered_with_text_and_usage(facts):
    assert facts["chat"] == {
        "object": "chat.completion",
        "model": "native/plain",
        "role": "assistant",
        "content": TEXT,
        "finish_reason": "stop",
        "usage": [11, 8, 19],
    }


async def test_a_stream_says_role_and_finish_reason_once_and_no_usage_unasked(facts):
    assert facts["stream"] == {
        "ids": 1,
        "roles": ["assistant"],
        "content": TEXT,
        "finish_reasons": ["stop"],
        "chunks_with_usage": 0,
    }


async def test_usage_asked_for_comes_once_last_and_without_choices(facts):
    told = {"told": 1, "is_last": True, "choices": 0, "usage": [11, 8, 19]}
    assert facts["stream_usage"] == told


async def test_the_accumulating_helper_ends_with_the_whole_answer(facts):
    assert facts["helper"] == [_final(TEXT, "stop")]


async def test_completions_answer_whole_and_streamed(facts):
    assert facts["completion"] == {
        "object": "text_completion",
        "text": TEXT,
        "finish_reason": "stop",
    }
    assert facts["completion_stream"] == {"text": TEXT, "finish_reasons": ["stop"]}


async def test_two_streamed_choices_are_both_whole(facts):
    assert facts["two_choices"] == [_final(TEXT, "stop")] * 2


async def test_tool_calls_written_as_text_become_tool_calls(facts):
    expected = _final("Let me look.", "tool_calls", WEATHER, TIME)
    assert facts["tools"] == expected
    assert facts["tools_stream"] == [expected]


async def test_a_forced_tool_is_called(facts):
    expected = _final(None, "tool_calls", WEATHER)
    assert facts["forced_tool"] == expected
    assert facts["forced_tool_stream"] == [expected]


async def test_log_probabilities_leave_out_special_tokens(facts):
    assert facts["logprobs"] == [["Yes", -0.5, "Yes", 2], [".", -0.625, ".", 2]]
    assert facts["logprobs_stream"] == ["Yes", "."]


async def test_structured_output_is_the_json_that_the_schema_asked_for(facts):
    assert facts["structured"] == {"city": "Paris", "degrees": 21}


@pytest.mark.parametrize("scenario", ["headers", "stream_headers"])
async def test_headers_name_request_model_upstream_and_what_was_ignored(facts, scenario):
    assert facts[scenario] == {
        "request_id": 36,
        "model": "native/plain",
        "upstream": "endpoint",
        "ignored": "store",
        "timed": True,
    }


async def test_models_with_a_slash_in_their_name_are_listed_and_shown(facts):
    assert facts["models"] == {"listed": True, "shown": "native/plain"}


@pytest.mark.parametrize("scenario", ["repeated_tools", "bare_tools"])
async def test_tool_streams_that_deviate_are_mended(facts, scenario):
    (choice,) = facts[scenario]
    calls = [[kind, name, json.loads(arguments)] for kind, name, arguments in choice.pop("calls")]
    expected = [["function", "get_weather", {"city": "Paris"}], ["function", "get_time", {}]]
    assert calls == expected
    assert choice["role"] == "assistant"
    assert choice["finish_reason"] == "tool_calls"


async def test_arguments_sent_as_an_object_become_a_string(facts):
    ((_, name, arguments),) = facts["bare_tools_whole"]["calls"]
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Paris"})
    assert facts["bare_tools_whole"]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("scenario", ["vllm_stream", "tgi_chat_stream"])
async def test_chat_streams_that_deviate_are_mended(facts, scenario):
    assert facts[scenario] == [_final("Hello", "stop")]


async def test_choices_that_arrive_out_of_order_are_put_in_order(facts):
    assert facts["unordered_choices"] == [_final("a", "stop"), _final("b", "stop")]


async def test_a_stream_that_breaks_raises_after_what_came_before(facts):
    assert facts["broken_stream"] == {
        "error": "APIError",
        "code": "upstream_error",
        "content": "Hello,",
        "finish_reasons": [],
    }


INVALID, SERVER = "invalid_request_error", "server_error"
EXPECTED_ERRORS = {
    "key": ["AuthenticationError", 401, "invalid_api_key", None, INVALID],
    "model": ["NotFoundError", 404, "model_not_found", "model", INVALID],
    "value": ["BadRequestError", 400, "above_max_value", "temperature", INVALID],
    "unsupported": ["BadRequestError", 400, "unsupported_parameter", "logit_bias", INVALID],
    "context": ["BadRequestError", 400, "context_length_exceeded", "messages", INVALID],
    "rate": ["RateLimitError", 429, "rate_limit_exceeded", None, "rate_limit_error"],
    "rate_event": ["RateLimitError", 429, "rate_limit_exceeded", None, "rate_limit_error"],
    "loading": ["InternalServerError", 503, "model_loading", None, SERVER],
    "failed": ["InternalServerError", 502, "upstream_error", None, SERVER],
}


@pytest.mark.parametrize("scenario", EXPECTED_ERRORS)
async def test_a_failure_raises_the_class_that_applications_catch(facts, scenario):
    assert facts["errors"][scenario] == EXPECTED_ERRORS[scenario]


async def test_an_empty_account_is_told_apart_from_a_rate_limit(facts):
    kind, *told = facts["errors"]["credits"]
    assert kind in ("APIStatusError", "APIError")
    assert told == [402, "insufficient_quota", None, "insufficient_quota"]
