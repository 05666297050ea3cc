"""Answers in the objects and events of the Responses API, held to the SDK's own types."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from adapters.base import Task
from adapters.errors import Interrupted
from gateway.answers import Head
from gateway.errors import BadRequest, GatewayError
from gateway.folding import fold
from gateway.responses.form import ResponsesForm
from gateway.responses.request import parse_responses
from gateway.tapes import Piece

Json = dict[str, Any]

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
HEAD = Head(task=Task.CHAT, id="0a1b", created=1_700_000_000, model="m", fingerprint="fp")
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
TOKEN = {"token": "Hi", "logprob": -0.5, "bytes": None, "top_logprobs": []}
NAMESPACE = {
    "type": "namespace",
    "name": "ns",
    "description": "",
    "tools": [{"type": "function", "name": "f"}],
}


def form(**fields: Any) -> ResponsesForm:
    return parse_responses(json.dumps({"model": "m", "input": "Hi", **fields}).encode()).form


def whole(message: Json, finish: str | None = "stop", **fields: Any) -> Json:
    """Return the response object of a chat's answer, which the SDK finds valid."""
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish}
    data = form(**fields).whole(HEAD, [{"choices": [choice]}], USAGE)
    Response.model_validate_json(data)
    return json.loads(data)


def delta(finish: str | None = None, **said: Any) -> Json:
    """Return a chat's chunk."""
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def call(index: int, **function: Any) -> Json:
    """Return the delta of a call, which begins if it has a name."""
    begun = {"id": f"c{index}", "type": "function"} if "name" in function else {}
    return {"index": index, **begun, "function": function}


def events_of(data: bytes) -> list[Json]:
    """Return the events of a stream, each of which the SDK finds valid, numbered from 0."""
    events = []
    for number, frame in enumerate(data.decode().removesuffix("\n\n").split("\n\n")):
        name, payload = frame.split("\n")
        event = json.loads(payload.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        assert EVENT.validate_python(event).type == event["type"]
        events.append(event)
    return events


def stream(*chunks: Json, **fields: Any) -> list[Json]:
    """Return the events of a whole stream."""
    encoder = form(**fields).encoder(HEAD, choices=1, body={})
    return events_of(b"".join(map(encoder.encode, chunks)) + encoder.end(USAGE))


def types_of(events: list[Json]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_response_says_what_was_asked_and_what_it_took():
    asked = {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "max_output_tokens": 9,
        "tools": [{"type": "function", "name": "f"}, NAMESPACE, {"type": "web_search"}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        "reasoning": {"effort": "low"},
    }
    told = whole({"content": "{}"}, **asked)
    function = {"type": "function", "name": "f", "parameters": None, "strict": None}
    assert told["id"] == "resp_0a1b"
    assert told["created_at"] == HEAD.created <= told["completed_at"]
    for name in (
        "instructions",
        "metadata",
        "temperature",
        "max_output_tokens",
        "tool_choice",
        "text",
    ):
        assert told[name] == asked[name]
    assert told["tools"] == [function, NAMESPACE]  # what can be called
    assert told["reasoning"] == {"effort": "low", "summary": None}
    assert told["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }


def test_a_response_never_pretends_to_be_stored_or_truncated():
    told = whole({"content": "a"}, store=True, truncation="auto")
    assert (told["store"], told["background"], told["truncation"]) == (False, False, "disabled")
    assert told["previous_response_id"] is None


def test_items_are_reasoning_then_message_then_calls():
    message = {
        "content": "Hello",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "g", "arguments": '{"a": 1}'}},
            {"id": "c2", "type": "function", "function": {"name": "ns__f", "arguments": {}}},
            {"id": "c3", "type": "custom", "custom": {"name": "p", "input": "***"}},
        ],
    }
    assert whole(message, "tool_calls", tools=[NAMESPACE])["output"] == [
        {
            "id": "rs_0a1b00",
            "type": "reasoning",
            "summary": [],
            "status": "completed",
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        },
        {
            "id": "msg_0a1b01",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
            ],
        },
        {
            "id": "fc_0a1b02",
            "type": "function_call",
            "call_id": "c1",
            "name": "g",
            "status": "completed",
            "arguments": '{"a": 1}',
        },
        {
            "id": "fc_0a1b03",
            "type": "function_call",
            "call_id": "c2",
            "name": "f",
            "namespace": "ns",
            "status": "completed",
            "arguments": "{}",
        },
        {
            "id": "ctc_0a1b04",
            "type": "custom_tool_call",
            "call_id": "c3",
            "name": "p",
            "status": "completed",
            "input": "***",
        },
    ]


@pytest.mark.parametrize(
    ("finish", "status", "details"),
    [
        ("stop", "completed", None),
        (None, "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_a_finish_reason_is_a_status(finish, status, details):
    told = whole({"content": "a"}, finish)
    assert (told["status"], told["incomplete_details"]) == (status, details)
    assert told["output"][0]["status"] == status
    assert (told["completed_at"] is None) == (status == "incomplete")


def test_a_refusal_is_a_part_of_the_message():
    [message] = whole({"content": None, "refusal": "No."})["output"]
    assert message["content"] == [{"type": "refusal", "refusal": "No."}]


def test_an_answer_without_a_word_has_an_empty_message():
    [message] = whole({"content": ""})["output"]
    assert message["content"][0]["text"] == ""


def test_log_probabilities_stand_beside_the_text():
    choice = {
        "message": {"content": "Hi"},
        "logprobs": {"content": [TOKEN]},
        "finish_reason": "stop",
    }
    data = form().whole(HEAD, [{"choices": [choice]}], USAGE)
    [part] = Response.model_validate_json(data).output[0].content
    assert [(one.token, one.bytes) for one in part.logprobs] == [("Hi", [72, 105])]


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"finish_reason": "error"}]}])
def test_an_answer_that_is_none_is_not_told(answer):
    with pytest.raises(Interrupted):
        form().whole(HEAD, [answer], USAGE)


def test_a_text_is_streamed_in_order():
    events = stream(delta(role="assistant", content="Hel"), delta(content="lo"), delta("stop"))
    assert types_of(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    assert events[2]["item"]["content"] == [] and events[3]["part"]["text"] == ""
    assert events[6]["text"] == "Hello"
    assert events[-1]["response"]["output"] == [events[8]["item"]]
    assert events[-1]["response"]["usage"]["total_tokens"] == 14


def test_reasoning_ends_where_the_message_begins():
    events = stream(delta(reasoning_content="Hm."), delta(content="Hi"), delta("stop"))
    assert types_of(events)[2:10] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
    ]


def test_calls_are_streamed_as_items_of_their_own():
    events = stream(
        delta(tool_calls=[call(0, name="f", arguments="")]),
        delta(tool_calls=[call(0, arguments='{"a":')]),
        delta(tool_calls=[call(0, arguments="1}")]),
        delta("tool_calls"),
    )
    assert types_of(events)[2:] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert events[5]["arguments"] == '{"a":1}'


def test_a_message_ends_where_a_call_begins():
    begun = call(0, name="f", arguments="{}")
    events = stream(
        delta(content="Wait."), delta(tool_calls=[begun]), delta(content="So."), delta("stop")
    )
    told = [(one["item"]["type"], one["type"]) for one in events if "item" in one]
    assert told[:3] == [
        ("message", "response.output_item.added"),
        ("message", "response.output_item.done"),
        ("function_call", "response.output_item.added"),
    ]
    assert [item["type"] for item in events[-1]["response"]["output"]] == [
        "message",
        "function_call",
        "message",
    ]


def test_log_probabilities_are_streamed_with_their_text():
    spoken, silent = delta(content="Hi"), delta()
    for chunk in (spoken, silent):
        chunk["choices"][0]["logprobs"] = {"content": [TOKEN]}
    events = stream(silent, delta(reasoning_content="Hm."), silent, spoken, silent, delta("stop"))
    assert types_of(events)[2] == "output_item.added"
    assert [one["item"]["type"] for one in events if "item" in one][::2] == ["reasoning", "message"]
    deltas = [one for one in events if one["type"] == "response.output_text.delta"]
    assert [(one["delta"], len(one["logprobs"])) for one in deltas] == [("Hi", 1), ("", 1)]
    [done] = [one for one in events if one["type"] == "response.output_text.done"]
    assert [token["bytes"] for token in done["logprobs"]] == [[72, 105], [72, 105]]


def test_calls_in_turns_do_not_mix():
    events = stream(
        delta(tool_calls=[call(0, name="f", arguments="{"), call(1, name="g", arguments="[")]),
        delta(tool_calls=[call(0, arguments="}"), call(1, arguments="]")]),
        delta("tool_calls"),
    )
    output = events[-1]["response"]["output"]
    assert [(item["name"], item["arguments"]) for item in output] == [("f", "{}"), ("g", "[]")]


def test_a_function_called_with_nothing_is_given_an_empty_object():
    events = stream(delta("tool_calls", tool_calls=[call(0, name="f", arguments="")]))
    assert [event["delta"] for event in events if "delta" in event] == ["{}"]
    assert events[-1]["response"]["output"][0]["arguments"] == "{}"


def test_an_answer_cut_by_its_limit_ends_incomplete():
    events = stream(delta(content="Hel"), delta("length"))
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert events[-2]["item"]["status"] == "incomplete"


def test_a_stream_that_cannot_go_on_ends_in_response_failed():
    encoder = form().encoder(HEAD, choices=1, body={})
    begun = encoder.encode(delta(content="Hel"))
    error = GatewayError("The upstream broke off.", status=502, code="upstream_error")
    last = events_of(begun + encoder.fail(error))[-1]
    assert last["type"] == "response.failed"
    told = last["response"]
    assert told["status"] == "failed"
    assert told["error"] == {"code": "server_error", "message": "The upstream broke off."}
    assert [item["status"] for item in told["output"]] == ["incomplete"]
    assert told["output"][0]["content"][0]["text"] == "Hel"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadRequest("Slow down.", status=429), "rate_limit_exceeded"),
        (BadRequest("Too long.", param="messages"), "invalid_prompt"),
    ],
)
def test_a_stream_that_fails_before_it_begins_begins_all_the_same(error, code):
    encoder = form().encoder(HEAD, choices=1, body={})
    with pytest.raises(Interrupted):
        encoder.encode({"choices": [{"index": 5}]})
    events = events_of(encoder.fail(error))
    assert types_of(events) == ["created", "in_progress", "failed"]
    assert events[-1]["response"]["error"]["code"] == code


def test_a_stream_without_finish_reason_does_not_look_whole():
    encoder = form().encoder(HEAD, choices=1, body={})
    encoder.encode(delta(content="Hel"))
    with pytest.raises(Interrupted):
        encoder.end(USAGE)


def test_forms_differ_where_their_answers_do():
    assert form(metadata={"a": "b"}).name != form(metadata={"a": "c"}).name
    assert form().name == form(store=True).name


PIECE = st.sampled_from(["", "a", "Hello ", "\u2028", "é", '{"x":'])
CALLS = st.lists(
    st.builds(
        lambda index, name, text: {
            "index": index,
            "id": f"c{index}",
            "type": "function",
            "function": {"name": name, "arguments": text},
        },
        st.integers(0, 2),
        st.just("f"),
        PIECE,
    ),
    max_size=2,
)
SAID = st.fixed_dictionaries(
    {},
    optional={
        "content": PIECE,
        "reasoning_content": PIECE,
        "refusal": PIECE,
        "tool_calls": CALLS,
    },
)


@given(said=st.lists(SAID, max_size=8), finish=st.sampled_from(["stop", "length"]))
def test_deltas_add_up_to_the_whole_whatever_comes(said, finish):
    chunks = [*(delta(**one) for one in said), delta(finish)]
    events = stream(*json.loads(json.dumps(chunks)))
    deltas: defaultdict[tuple[str, int], str] = defaultdict(str)
    for event in events:
        if "delta" in event:
            deltas[event["item_id"], event.get("content_index", 0)] += event["delta"]
    response = events[-1]["response"]
    assert deltas == {key: text for key, text in texts_in(response).items() if text}

    added = [event["output_index"] for event in events if event["type"].endswith("item.added")]
    done = [event["output_index"] for event in events if event["type"].endswith("item.done")]
    assert added == sorted(done) == list(range(len(response["output"])))

    folded = json.loads(form().whole(HEAD, [fold([Piece([None, chunks], is_last=True)])], USAGE))
    assert texts_by_kind(folded) == texts_by_kind(response)


def texts_in(response: Json) -> dict[tuple[str, int], str]:
    """Return the texts of a response, by item and place in it."""
    texts = {}
    for item in response["output"]:
        for at, part in enumerate(item.get("content", [item])):
            text = part.get("text", part.get("refusal", part.get("arguments")))
            texts[item["id"], at] = text
    return texts


def texts_by_kind(response: Json) -> Json:
    """Return the texts of a response joined by what they are; of calls by which it is."""
    joined: defaultdict[str, str] = defaultdict(str)
    for item in response["output"]:
        for part in item.get("content", [item]):
            text = part.get("text", part.get("refusal", part.get("arguments")))
            joined[item.get("call_id") or part["type"]] += text
    return {kind: text for kind, text in joined.items() if text}
