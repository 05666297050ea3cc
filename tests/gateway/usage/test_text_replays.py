"""Texts that were made once, and are read again: as they came, or the other way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from adapters.base import Task
from adapters.errors import ContextTooLong, Interrupted
from gateway.errors import GatewayError
from gateway.tapes import Piece
from tests.gateway.running import DIALECTS
from tests.gateway.taped import Recorded, played, recorded
from tests.gateway.usage.text_upstream import (
    TOKENS,
    Event,
    Tap,
    Text,
    as_json,
    events_for,
    exchange,
    play_whole,
)
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

EACH = [(dialect, n) for dialect in DIALECTS for n in (1, 3)]
CALL = {"function": {"name": "f", "arguments": "{}"}}  # without an id


class Scripted:
    """A tape of these pieces, of which an error is raised in its turn; it says when it closes."""

    is_free = True

    def __init__(self, *pieces: Piece | Exception) -> None:
        self.closed = asyncio.Event()
        self._pieces = pieces

    async def open(self) -> None:
        if isinstance(self._pieces[0], Exception):
            raise self._pieces[0]

    async def pieces(self) -> AsyncIterator[Piece]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def aclose(self) -> None:
        self.closed.set()


def says(text: str, *, index: int = 0, is_last: bool = False) -> Piece:
    """Return a piece of one choice that says `text`."""
    reason = "stop" if is_last else None
    choice = {"index": index, "delta": {"content": text}, "finish_reason": reason}
    return Piece([None, [{"choices": [choice]}]], is_last)


def open_tap(
    upstream: Upstream, events_of: Callable[[Visit], Iterator[Event]] | None = None
) -> None:
    """Let streams flow freely."""
    tap = Tap(upstream, events_of or events_for())
    for _ in range(100):
        tap.drip()


async def made(text: Text, **body: Any) -> tuple[bytes, list[Recorded], Any]:
    """Return an answer, its recording, and what it used."""
    asked = exchange(**body)
    data, recording = await recorded(await text.prepared(asked))
    return data, recording, (asked.usage, asked.finish)


async def replayed(text: Text, recording: list[Recorded], **body: Any) -> tuple[bytes, Any]:
    """Return an answer made of a recording, and what it used."""
    asked = exchange(**body)
    data = await played(await text.prepared(asked), recording)
    return data, (asked.usage, asked.finish)


def without_time(data: bytes) -> list[Any]:
    """Return all objects of an answer or a stream, but when they were made."""
    lines = data.removeprefix(b"data: ").removesuffix(b"\n\ndata: [DONE]\n\n").split(b"\n\ndata: ")
    return [{**json.loads(line), "created": None} for line in lines]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("dialect", "n"), EACH)
async def test_a_stream_is_replayed_frame_by_frame_at_the_same_usage(
    text: Text, upstream: Upstream, dialect: str, n: int, told: bool
) -> None:
    open_tap(upstream, events_for(told=told))
    body = {"dialect": dialect, "n": n, "seed": 1, "stream": True}
    body["stream_options"] = {"include_usage": True}
    first, recording, used = await made(text, **body)
    again, used_again = await replayed(text, recording, **body)
    assert again.endswith(b"data: [DONE]\n\n")
    assert sorted(map(str, without_time(again))) == sorted(map(str, without_time(first)))
    assert used_again == used
    if n == 1:
        assert without_time(again) == without_time(first)


@pytest.mark.parametrize(("dialect", "n"), EACH)
async def test_a_plain_request_is_answered_from_a_stream_at_the_same_usage(
    text: Text, upstream: Upstream, dialect: str, n: int
) -> None:
    open_tap(upstream)
    _, recording, used = await made(text, dialect=dialect, n=n, seed=1, stream=True)
    data, used_again = await replayed(text, recording, dialect=dialect, n=n, seed=1)
    answer = json.loads(data)
    spoken = TOKENS if dialect == "openai" else TOKENS - 1
    contents = [choice["message"]["content"] for choice in answer["choices"]]
    assert contents == [" one" * spoken] * n
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop"] * n
    assert answer["usage"]["completion_tokens"] == TOKENS * n
    assert used_again == used


@pytest.mark.parametrize("task", [Task.CHAT, Task.COMPLETION])
@pytest.mark.parametrize(("dialect", "n"), EACH)
async def test_a_stream_is_made_of_a_plain_answer_at_the_same_usage(
    text: Text, upstream: Upstream, dialect: str, n: int, task: Task
) -> None:
    upstream.play(play_whole)
    body = {"dialect": dialect, "n": n, "seed": 1, "task": task}
    whole, recording, used = await made(text, **body)
    data, used_again = await replayed(text, recording, **body, stream=True)
    said = [""] * n
    for chunk in without_time(data):
        for choice in chunk["choices"]:
            spoken = choice["delta"].get("content") if task is Task.CHAT else choice["text"]
            said[choice["index"]] += spoken or ""
    answers = json.loads(whole)["choices"]
    contents = [one["message"]["content"] if task is Task.CHAT else one["text"] for one in answers]
    assert said == contents
    assert data.endswith(b"data: [DONE]\n\n")
    assert used_again == used


async def test_calls_without_ids_have_the_same_ones_for_all_who_read_them(
    text: Text, upstream: Upstream
) -> None:
    whole = {"message": {"content": None, "tool_calls": [CALL, CALL]}, "finish_reason": "stop"}
    first = {"delta": {"tool_calls": [{"index": 0, **CALL}]}}
    second = {"delta": {"tool_calls": [{"index": 1, **CALL}]}, "finish_reason": "stop"}
    events = [b"data: %b\n\n" % json.dumps({"choices": [one]}).encode() for one in (first, second)]
    seen = set()
    for stream in (False, True):
        if stream:
            open_tap(upstream, lambda _: iter([(event, 1) for event in events]))
        else:
            upstream.play(as_json({"choices": [whole]}))
        _, recording, _ = await made(text, dialect="openai", seed=1, stream=stream)
        plain, _ = await replayed(text, recording, dialect="openai", seed=1)
        streamed, _ = await replayed(text, recording, dialect="openai", seed=1, stream=True)
        ids = [one["id"] for one in json.loads(plain)["choices"][0]["message"]["tool_calls"]]
        assert len({*ids}) == 2
        for id in ids:
            assert streamed.count(id.encode()) == 1
        seen |= {*ids}
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("choice", "is_sound"),
    [
        ({"message": {"content": "a"}, "finish_reason": "stop"}, True),
        ({"message": {"content": "a"}, "finish_reason": "length"}, True),
        ({"message": {"content": "a"}, "finish_reason": "error"}, False),
        ({"message": {"content": "a"}, "finish_reason": None}, False),
        ({"message": {"content": "a"}}, False),
        ({"message": {"tool_calls": [CALL]}, "finish_reason": "tool_calls"}, True),
        (
            {
                "message": {"tool_calls": [CALL, {"function": {"name": "f", "arguments": "{"}}]},
                "finish_reason": "length",
            },
            False,
        ),
        (
            {
                "message": {"tool_calls": [{"custom": {"name": "f", "input": "{"}}]},
                "finish_reason": "tool_calls",
            },
            True,
        ),
    ],
)
async def test_answers_that_ended_well_and_whose_calls_can_be_made_are_sound(
    text: Text, choice: dict[str, Any], is_sound: bool
) -> None:
    [part] = (await text.prepared(exchange("openai"))).parts
    assert part.is_sound([Piece([None, {"choices": [choice]}], is_last=True)]) is is_sound


async def test_an_answer_of_fewer_choices_than_asked_for_is_not_sound(text: Text) -> None:
    choice = {"message": {"content": "a"}, "finish_reason": "stop"}
    [part] = (await text.prepared(exchange("openai", n=2))).parts
    assert not part.is_sound([Piece([None, {"choices": [choice]}], is_last=True)])
    choices = [{"index": at, **choice} for at in range(2)]
    assert part.is_sound([Piece([None, {"choices": choices}], is_last=True)])


@pytest.mark.parametrize("n", [1, 2])
async def test_what_breaks_a_stream_off_is_its_last_event(text: Text, n: int) -> None:
    failure = GatewayError("Too much.", status=503, code="overloaded")
    for end, code in ((failure, "overloaded"), (None, "upstream_error")):
        tapes = [
            Scripted(says("a"), *([end] if end else [])),
            *(Scripted(says("b", index=1, is_last=True)) for _ in range(n - 1)),
        ]
        job = await text.prepared(exchange("hf", n=n, seed=1, stream=True))
        answer = await job.answer(tapes)
        frames = [frames async for frames in answer.frames()]
        assert answer.error
        assert answer.error.code == code
        assert b'"error"' in frames[-1]
        assert b"[DONE]" not in frames[-1]
        await answer.aclose()
        assert all(tape.closed.is_set() for tape in tapes)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
async def test_a_tape_that_cannot_begin_closes_all(text: Text, n: int, stream: bool) -> None:
    tapes = [Scripted(ContextTooLong("Too long.")) for _ in range(n)]
    job = await text.prepared(exchange("hf", n=n, seed=1, stream=stream))
    with pytest.raises(ContextTooLong) as raised:
        await job.answer(tapes)
    assert raised.value.param == "messages"
    assert all(tape.closed.is_set() for tape in tapes)


async def test_a_plain_answer_that_breaks_off_is_an_error_on_what_came(text: Text) -> None:
    asked = exchange("openai", seed=1)
    tape = Scripted(says("four"))
    with pytest.raises(Interrupted):
        await (await text.prepared(asked)).answer([tape])
    assert tape.closed.is_set()
    assert asked.usage.output_tokens == 1
