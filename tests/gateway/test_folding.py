"""A stream holds all that the whole answer does, and the other way round."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import Call, Request, Task, ToolStyle
from adapters.hf import HfText
from gateway.folding import chunks_of, fold, unfold
from gateway.tapes import Piece

Json = dict[str, Any]

TEXT = st.text(max_size=12)
SAID = TEXT.filter(bool)
LOGPROBS = st.none() | st.builds(
    lambda tokens: {
        "content": [{"token": token, "logprob": -1.0} for token in tokens],
        "refusal": None,
    },
    st.lists(SAID, min_size=1, max_size=4),
)
LEGACY_LOGPROBS = st.none() | st.builds(
    lambda tokens: {"tokens": tokens, "top_logprobs": None, "text_offset": [*range(len(tokens))]},
    st.lists(SAID, min_size=1, max_size=4),
)
CALLS = st.lists(
    st.builds(
        lambda id, name, arguments: {
            "id": id,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        },
        SAID,
        SAID,
        TEXT,
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda call: call["id"],
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": SAID},
    optional={
        "reasoning_content": SAID,
        "reasoning": SAID,
        "refusal": SAID,
        "tool_calls": CALLS,
        "annotations": st.just([{"type": "url_citation"}]),
    },
)
FINISH = st.sampled_from(["stop", "length", "tool_calls"])
USAGE = st.fixed_dictionaries({"prompt_tokens": st.integers(0, 9)})


def numbered(choices: list[Json]) -> list[Json]:
    return [{"index": at, **choice} for at, choice in enumerate(choices)]


def answers(choice: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    choices = st.lists(choice, min_size=1, max_size=3).map(numbered)
    return st.fixed_dictionaries(
        {"model": st.just("m"), "choices": choices, "usage": USAGE},
        optional={"system_fingerprint": SAID},
    )


CHATS = answers(
    st.fixed_dictionaries(
        {"message": MESSAGES, "logprobs": LOGPROBS, "finish_reason": FINISH},
        optional={"stop_reason": SAID},
    )
)
COMPLETIONS = answers(
    st.fixed_dictionaries({"text": TEXT, "logprobs": LEGACY_LOGPROBS, "finish_reason": FINISH})
)


def deltas_of(message: Json) -> Iterator[Json]:
    """Yield a message letter by letter."""
    yield {"role": message["role"], "content": ""}
    for name, said in message.items():
        if name == "tool_calls":
            for at, call in enumerate(said):
                function = call["function"]
                opening = {**call, "index": at, "function": {**function, "arguments": ""}}
                yield {"tool_calls": [opening]}
                for letter in function["arguments"]:
                    yield {"tool_calls": [{"index": at, "function": {"arguments": letter}}]}
        elif isinstance(said, str) and name != "role":
            yield from ({name: letter} for letter in said)
        elif name != "role":
            yield {name: said}


def logprobs_of(logprobs: Json | None) -> Iterator[Json]:
    """Yield the log probabilities token by token."""
    lists = {name: value for name, value in (logprobs or {}).items() if isinstance(value, list)}
    for entries in zip(*lists.values(), strict=True):
        yield {
            **(logprobs or {}),
            **{name: [one] for name, one in zip(lists, entries, strict=True)},
        }


def steps_of(choice: Json) -> Iterator[Json]:
    """Yield the choices of chunks that make up one of a whole answer."""
    others = {
        name: value
        for name, value in choice.items()
        if name not in ("index", "message", "text", "logprobs", "finish_reason")
    }
    for logprobs in logprobs_of(choice["logprobs"]):
        yield {"logprobs": logprobs} | ({"delta": {}} if "message" in choice else {"text": ""})
    if "message" in choice:
        yield from (
            {"delta": delta, "finish_reason": None} for delta in deltas_of(choice["message"])
        )
        yield {"delta": {}, "finish_reason": choice["finish_reason"], **others}
    else:
        yield from ({"text": letter, "logprobs": None} for letter in choice["text"])
        yield {"text": "", "finish_reason": choice["finish_reason"], **others}


@st.composite
def streams(draw: st.DrawFn, answer: Json) -> list[Piece]:
    """Draw the pieces of a stream of `answer`: its choices take turns, reads break anywhere."""
    head = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    waiting = {choice["index"]: [*steps_of(choice)] for choice in answer["choices"]}
    chunks = []
    while waiting:
        index = draw(st.sampled_from(sorted(waiting)))
        step = waiting[index].pop(0)
        chunks.append({**head, "choices": [{"index": index, **step}], "usage": None})
        if not waiting[index]:
            del waiting[index]
    chunks.append({**head, "choices": [], "usage": answer["usage"]})
    cuts = sorted(draw(st.sets(st.integers(1, len(chunks)), max_size=3)))
    edges = [0, *cuts, len(chunks)]
    return [Piece([None, chunks[a:b]]) for a, b in pairwise(edges)]


@given(st.data(), CHATS | COMPLETIONS)
@settings(deadline=None)  # drawing a stream takes longer than folding it
def test_a_stream_folds_into_the_whole_answer(data: st.DataObject, answer: Json) -> None:
    pieces = data.draw(streams(answer))
    before = msgspec.msgpack.encode(pieces)
    assert fold(pieces) == answer
    assert msgspec.msgpack.encode(pieces) == before  # others read them too


@given(CHATS | COMPLETIONS)
def test_a_whole_answer_unfolds_into_a_chunk_that_folds_into_it(answer: Json) -> None:
    assert fold([Piece([None, [unfold(answer)]])]) == answer


@given(CHATS | COMPLETIONS)
def test_an_answer_that_came_whole_stays_as_it_is_also_after_it_was_kept(answer: Json) -> None:
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(Piece([None, answer], True)), type=Piece)
    assert fold([kept]) == answer
    assert chunks_of(kept) == [unfold(answer)]


def test_choices_without_an_index_are_told_apart_by_their_order() -> None:
    chunk = unfold({"choices": [{"text": "a"}, {"text": "b"}]})
    assert [choice["index"] for choice in chunk["choices"]] == [0, 1]


@pytest.mark.parametrize(
    ("deltas", "content"),
    [
        ([{"content": ""}], ""),
        ([{"role": "assistant"}], ""),
        ([{"content": ""}, {"tool_calls": [{"index": 0, "id": "a"}]}], None),
        ([{"content": ""}, {"refusal": "No."}], None),
    ],
)
def test_content_is_null_only_where_something_else_is_said(
    deltas: list[Json], content: str | None
) -> None:
    chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
    assert fold([Piece([None, chunks])])["choices"][0]["message"]["content"] == content


def test_calls_without_an_index_of_their_own_are_told_apart_by_their_ids() -> None:
    said = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
        {"index": 0, "id": None, "function": {"name": None, "arguments": "}"}},
        {"index": 0, "id": "b", "function": {"name": "g", "arguments": {"x": 1}}},
        {"index": 3, "id": "c", "type": "custom", "custom": {"name": "h", "input": "1"}},
        {"index": 3, "custom": {"input": "2"}},
    ]
    chunks = [{"choices": [{"delta": {"tool_calls": [call]}}]} for call in said]
    assert fold([Piece([None, chunks])])["choices"][0]["message"]["tool_calls"] == [
        {"type": "function", "id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"type": "function", "id": "b", "function": {"name": "g", "arguments": '{"x":1}'}},
        {"type": "custom", "id": "c", "custom": {"name": "h", "input": "12"}},
    ]


def test_what_comes_after_a_finish_reason_is_left_out_as_it_is_of_a_stream() -> None:
    said = [("a", None), ("b", "stop"), ("c", "length")]
    chunks = [
        {"choices": [{"delta": {"content": text}, "finish_reason": reason}]}
        for text, reason in said
    ]
    [choice] = fold([Piece([None, chunks])])["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", "stop")


@given(
    st.lists(
        st.sampled_from(["one", " two", "STOP", '<tool_call>{"name": "f", "arg', "é"]), min_size=1
    ),
    st.sampled_from([Task.CHAT, Task.COMPLETION]),
    st.fixed_dictionaries(
        {}, optional={"stop": st.just("wo"), "logprobs": st.just(1), "echo": st.just(True)}
    ),
)
def test_native_streams_fold_into_what_native_answers_are(
    texts: list[str], task: Task, body: Json
) -> None:
    if "<tool" in "".join(texts):
        texts.append('uments": {"x": 1}}</tool_call>')
    tools = [{"type": "function", "function": {"name": "f"}}]
    request = Request(
        task=task,
        model="m",
        body=body | ({"tools": tools} if task is Task.CHAT else {}),
        prompts=("Say:",),
        tool_style=ToolStyle.HERMES,
    )
    tokens = [{"text": text, "logprob": -1.0, "special": False} for text in texts]
    details = {"finish_reason": "length", "generated_tokens": len(texts), "input_length": 1}
    whole = {"generated_text": "".join(texts), "details": {**details, "tokens": tokens}}
    call = Call(path="/", body=b"")
    answer = HfText().answer(request, call, headers={}, body=json.dumps(whole).encode())
    decoder = HfText().decoder(request, call)
    events = [{"token": token} for token in tokens] + [{"generated_text": "", "details": details}]
    reads = [decoder.feed(b"data: %b\n\n" % json.dumps(event).encode()) for event in events]
    folded = fold([Piece([at, chunks]) for at, chunks in enumerate(reads)])
    assert without_ids(folded["choices"]) == without_ids(answer["choices"])


def without_ids(choices: list[Json]) -> list[Json]:
    """Drop the ids of calls, which are drawn."""
    for choice in choices:
        for call in choice.get("message", {}).get("tool_calls", ()):
            del call["id"]
    return choices
