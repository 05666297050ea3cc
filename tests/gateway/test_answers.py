"""Whatever an upstream sends, clients get what the SDKs' accumulating helpers need."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.base import Task
from adapters.errors import Interrupted
from gateway.answers import Head, render_answer
from gateway.chunks import StreamEncoder, render_usage

Json = dict[str, Any]

REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}
CHOICES = 3
TEXT = st.sampled_from(["", "a", "Hello", "\u2028", "é"])
MAYBE = st.none() | TEXT
ARGUMENTS = st.none() | TEXT | st.just({}) | st.just({"a": 1})
CALLS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "index": st.none() | st.integers(0, 3),
            "id": st.none() | st.sampled_from(["", "c1", "c2"]),
            "type": st.none() | st.just("function"),
            "function": st.none()
            | st.fixed_dictionaries({}, optional={"name": MAYBE, "arguments": ARGUMENTS}),
        },
    ),
    max_size=3,
)
DELTAS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from([None, "", "assistant", "user"]),
        "content": MAYBE,
        "reasoning": MAYBE,
        "reasoning_content": MAYBE,
        "tool_calls": st.none() | CALLS,
        "refusal": MAYBE,
    },
)
FINISH = st.sampled_from([None, None, "", "stop", "length", "tool_calls", "eos", "max_tokens"])
LOGPROBS = st.none() | st.just({"content": []})
CHUNK_CHOICES = st.lists(
    st.fixed_dictionaries(
        {"index": st.integers(0, CHOICES - 1) | st.none()},
        optional={"delta": DELTAS, "text": MAYBE, "finish_reason": FINISH, "logprobs": LOGPROBS},
    ),
    max_size=3,
)
CHUNKS = st.lists(
    st.fixed_dictionaries(
        {"choices": st.none() | CHUNK_CHOICES},
        optional={
            "id": st.just("theirs"),
            "created": st.just(1.5),
            "model": st.just("theirs"),
            "object": st.just("theirs"),
            "usage": st.none() | st.just({"prompt_tokens": 1}),
            "error": st.none(),
            "event": st.none(),
            "service_tier": st.just("default"),
        },
    ),
    max_size=8,
)
TASKS = st.sampled_from((Task.CHAT, Task.COMPLETION))


def head(task: Task) -> Head:
    return Head(task=task, id="7", created=5, model="mine", fingerprint="fp_1")


def stream(task: Task, chunks: list[Json], *, usage: bool) -> list[Json]:
    """Encode `chunks` and a finish for every choice; return the objects of all frames."""
    encoder = StreamEncoder(head(task), choices=CHOICES, include_usage=usage)
    ends = [{"index": at, "finish_reason": "stop"} for at in range(CHOICES)]
    frames = b"".join(encoder.encode(chunk) for chunk in [*chunks, {"choices": ends}])
    frames += encoder.end({"prompt_tokens": 2, "completion_tokens": 3})
    *events, done, rest = frames.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(event.startswith(b"data: {") for event in events)
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def of_choice(objects: list[Json], index: int) -> list[Json]:
    return [choice for one in objects for choice in one["choices"] if choice["index"] == index]


@given(TASKS, CHUNKS, st.booleans())
def test_every_frame_has_the_same_head_and_no_error(
    task: Task, chunks: list[Json], usage: bool
) -> None:
    kind = "chat.completion.chunk" if task is Task.CHAT else "text_completion"
    objects = stream(task, chunks, usage=usage)
    heads = {
        (one["id"], one["object"], one["created"], one["model"], one["system_fingerprint"])
        for one in objects
    }
    prefix = "chatcmpl-" if task is Task.CHAT else "cmpl-"
    assert heads == {(prefix + "7", kind, 5, "mine", "fp_1")}
    assert not [one for one in objects if "error" in one or "event" in one]


@given(TASKS, CHUNKS)
def test_usage_comes_last_and_only_when_asked_for(task: Task, chunks: list[Json]) -> None:
    assert all("usage" not in one for one in stream(task, chunks, usage=False))
    *others, last = stream(task, chunks, usage=True)
    assert all(one["usage"] is None and one["choices"] for one in others)
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["total_tokens"]) == (2, 5)


@given(TASKS, CHUNKS)
def test_choices_first_appear_in_order_and_each_finishes_once(
    task: Task, chunks: list[Json]
) -> None:
    objects = stream(task, chunks, usage=False)
    seen = list(dict.fromkeys(choice["index"] for one in objects for choice in one["choices"]))
    if task is Task.CHAT:
        assert seen == list(range(CHOICES))
    for index in range(CHOICES):
        reasons = [choice["finish_reason"] for choice in of_choice(objects, index)]
        assert reasons[-1] in REASONS
        assert set(reasons[:-1]) <= {None}


@given(CHUNKS)
def test_role_comes_once_and_first(chunks: list[Json]) -> None:
    objects = stream(Task.CHAT, chunks, usage=False)
    for index in range(CHOICES):
        first, *others = [choice["delta"] for choice in of_choice(objects, index)]
        assert first["role"] == "assistant"
        assert "content" in first
        assert not [delta for delta in others if "role" in delta]


@given(CHUNKS)
@example([{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 3, "id": "a"}] * 2}}]}])
@example([{"choices": [{"index": 0, "delta": {"tool_calls": [{"id": "a"}, {"id": "b"}]}}]}])
def test_tool_calls_have_dense_indexes_and_say_who_they_are_once(chunks: list[Json]) -> None:
    objects = stream(Task.CHAT, chunks, usage=False)
    for index in range(CHOICES):
        calls = [
            call
            for choice in of_choice(objects, index)
            for call in choice["delta"].get("tool_calls") or ()
        ]
        begun: list[int] = []
        for call in calls:
            assert isinstance(call["function"].get("arguments", ""), str)
            if "id" in call:
                assert call["index"] == len(begun)
                begun.append(call["index"])
                assert call["id"]
                assert call["type"] == "function"
                assert isinstance(call["function"]["name"], str)
            else:
                assert call["index"] in begun
                assert set(call) == {"index", "function"}
                assert set(call["function"]) == {"arguments"}


@given(CHUNKS)
def test_a_choice_that_called_tools_does_not_end_in_stop(chunks: list[Json]) -> None:
    objects = stream(Task.CHAT, chunks, usage=False)
    for index in range(CHOICES):
        mine = of_choice(objects, index)
        if any(choice["delta"].get("tool_calls") for choice in mine):
            assert mine[-1]["finish_reason"] != "stop"


@given(CHUNKS)
@example([{"choices": [{"index": 0, "delta": {"tool_calls": [{}]}}]}] * 2)
def test_no_delta_is_null_or_says_nothing(chunks: list[Json]) -> None:
    for one in stream(Task.CHAT, chunks, usage=False):
        for choice in one["choices"]:
            delta = choice["delta"]
            assert isinstance(delta, dict)
            says = delta or choice["finish_reason"] or choice["logprobs"]
            assert says, one
            assert delta.get("tool_calls") != []


@given(CHUNKS)
def test_text_and_reasoning_arrive_whole(chunks: list[Json]) -> None:
    objects = stream(Task.CHAT, chunks, usage=False)
    for index in range(CHOICES):
        content = reasoning = ""
        for choice in (choice for chunk in chunks for choice in chunk["choices"] or ()):
            if (choice["index"] or 0) != index:
                continue
            delta = choice.get("delta") or {}
            content += delta.get("content") or ""
            reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
            if choice.get("finish_reason"):
                break
        deltas = [choice["delta"] for choice in of_choice(objects, index)]
        assert "".join(delta.get("content") or "" for delta in deltas) == content
        assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == reasoning
        assert "".join(delta.get("reasoning") or "" for delta in deltas) == reasoning


@pytest.mark.parametrize("task", [Task.CHAT, Task.COMPLETION])
@pytest.mark.parametrize("finished", [0, 1, 2])
def test_a_stream_without_every_finish_reason_does_not_end_well(task: Task, finished: int) -> None:
    encoder = StreamEncoder(head(task), choices=CHOICES, include_usage=True)
    for at in range(finished):
        encoder.encode({"choices": [{"index": at, "finish_reason": "stop"}]})
    with pytest.raises(Interrupted):
        encoder.end({})


@pytest.mark.parametrize("index", [-1, CHOICES, 10**9])
def test_a_choice_that_was_not_asked_for_is_an_error(index: int) -> None:
    encoder = StreamEncoder(head(Task.CHAT), choices=CHOICES, include_usage=False)
    with pytest.raises(Interrupted):
        encoder.encode({"choices": [{"index": index, "delta": {"content": "a"}}]})


MESSAGES = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from([None, "user"]),
        "content": MAYBE,
        "refusal": MAYBE,
        "reasoning": MAYBE,
        "tool_calls": st.none() | CALLS,
        "annotations": st.none() | st.just([]),
    },
)
ANSWERS = st.lists(
    st.fixed_dictionaries(
        {
            "choices": st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "index": st.integers(0, 5),
                        "message": MESSAGES,
                        "text": MAYBE,
                        "finish_reason": FINISH,
                        "logprobs": LOGPROBS,
                    },
                ),
                min_size=1,
                max_size=3,
            )
        },
        optional={
            "id": st.just("theirs"),
            "created": st.just(1.5),
            "error": st.none(),
            "usage": st.just({"prompt_tokens": 9}),
            "service_tier": st.just("default"),
        },
    ),
    min_size=1,
    max_size=3,
)


@given(TASKS, ANSWERS)
def test_whole_answers_have_openais_shape(task: Task, answers: list[Json]) -> None:
    body = json.loads(render_answer(head(task), answers, {"prompt_tokens": 2}))
    total = sum(len(answer["choices"]) for answer in answers)
    assert "error" not in body
    assert (body["created"], body["model"]) == (5, "mine")
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (2, 0)
    assert [choice["index"] for choice in body["choices"]] == list(range(total))
    for choice in body["choices"]:
        assert choice["finish_reason"] in REASONS
        assert "logprobs" in choice
        if task is Task.COMPLETION:
            assert isinstance(choice["text"], str)
        else:
            check_message(choice)


def check_message(choice: Json) -> None:
    message = choice["message"]
    assert message["role"] == "assistant"
    assert {"content", "refusal"} <= set(message)
    calls = message.get("tool_calls")
    assert calls is None or calls
    for call in calls or ():
        assert call["id"]
        assert call["type"] == "function"
        assert isinstance(call["function"]["arguments"], str)
        assert isinstance(call["function"]["name"], str)
    if calls:
        assert choice["finish_reason"] != "stop"


@pytest.mark.parametrize("answers", [[{}], [{"choices": None}], [{"choices": []}], [{}, {}]])
def test_an_answer_without_choices_is_an_error(answers: list[Json]) -> None:
    with pytest.raises(Interrupted):
        render_answer(head(Task.CHAT), answers, {})


@pytest.mark.parametrize("reason", ["error", "abort"])
@pytest.mark.parametrize("task", [Task.CHAT, Task.COMPLETION])
def test_an_answer_that_broke_off_does_not_end_in_stop(task: Task, reason: str) -> None:
    said: Json = {"index": 0, "text": "Hel", "message": {"content": "Hel"}, "finish_reason": reason}
    with pytest.raises(Interrupted):
        render_answer(head(task), [{"choices": [said]}], {})
    with pytest.raises(Interrupted):
        stream(task, [{"choices": [said]}], usage=False)


def test_a_call_of_a_custom_tool_is_streamed_as_one() -> None:
    begun = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "shell", "input": ""}}
    more = {"index": 0, "custom": {"input": "ls"}}
    deltas = [{"tool_calls": [call]} for call in (begun, more)]
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    choices = of_choice(stream(Task.CHAT, chunks, usage=False), 0)
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert calls == [begun, more]
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_usage_keeps_what_else_the_upstream_told() -> None:
    told = {"prompt_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 4}, "cost": 1}
    usage = render_usage(told, Task.CHAT)
    assert usage["cost"] == 1
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 4
    assert usage["completion_tokens_details"]["audio_tokens"] == 0
