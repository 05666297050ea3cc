"""What streams of text have used, at whatever point they end."""

from __future__ import annotations

import json

import pytest

from gateway.amounts import Usage
from tests.gateway.running import DIALECTS
from tests.gateway.usage.text_upstream import (
    PIECE,
    TOKENS,
    Tap,
    Text,
    events_for,
    exchange,
    play_whole,
)
from tests.scripted_upstream import Upstream

pytestmark = pytest.mark.anyio

EACH = [(dialect, n) for dialect in DIALECTS for n in (1, 3)]


@pytest.mark.parametrize(("dialect", "n"), EACH)
async def test_a_stream_that_is_left_used_what_came(
    text: Text, upstream: Upstream, dialect: str, n: int
) -> None:
    at_once = 1 if dialect == "openai" else n
    for read in range(at_once, TOKENS * n):
        tap = Tap(upstream, events_for())
        asked = exchange(dialect, n=n, stream=True)
        stream = await text.streamed(asked)
        frames = stream.frames()
        for at in range(read):
            if at >= at_once:
                tap.drip()
            await anext(frames)
            assert asked.usage.output_tokens <= tap.sent
        await stream.aclose()
        assert asked.usage.output_tokens == tap.sent == read
        assert asked.usage.input_tokens > 0
        assert asked.usage.estimated


@pytest.mark.parametrize(("dialect", "n"), EACH)
async def test_a_stream_of_which_nothing_was_read_used_what_came(
    text: Text, upstream: Upstream, dialect: str, n: int
) -> None:
    tap = Tap(upstream, events_for())
    asked = exchange(dialect, n=n, stream=True)
    await (await text.streamed(asked)).aclose()
    assert asked.usage.output_tokens == tap.sent > 0


@pytest.mark.parametrize(("dialect", "n"), EACH)
async def test_a_stream_read_to_its_end_used_what_was_told(
    text: Text, upstream: Upstream, dialect: str, n: int
) -> None:
    tap = Tap(upstream, events_for())
    asked = exchange(dialect, n=n, stream=True)
    stream = await text.streamed(asked)
    async for _ in stream.frames():
        tap.drip()
        if stream.is_over:  # and not only once it is closed
            assert asked.usage == Usage(input_tokens=7, output_tokens=TOKENS * n)
    await stream.aclose()
    assert asked.usage == Usage(input_tokens=7, output_tokens=TOKENS * n)
    assert asked.finish == "stop"


async def test_what_is_told_wins_over_what_was_counted(text: Text, upstream: Upstream) -> None:
    details = {"finish_reason": "length", "generated_tokens": 5, "input_length": 6}
    token = {"id": 1, "text": PIECE, "logprob": -1, "special": False}
    end = {"token": token, "generated_text": PIECE, "details": details}
    Tap(upstream, lambda _: iter([(f"data: {json.dumps(end)}\n\n".encode(), 1)]))
    asked = exchange("hf", stream=True)
    stream = await text.streamed(asked)
    assert b"[DONE]" in b"".join([frame async for frame in stream.frames()])
    assert asked.usage == Usage(input_tokens=6, output_tokens=5)
    await stream.aclose()


@pytest.mark.parametrize(("dialect", "n"), EACH)
async def test_a_stream_that_breaks_off_used_what_came(
    text: Text, upstream: Upstream, dialect: str, n: int
) -> None:
    tap = Tap(upstream, events_for(), limit=n + 1)
    asked = exchange(dialect, n=n, stream=True)
    stream = await text.streamed(asked)
    async for _ in stream.frames():
        tap.drip()
    assert stream.error
    assert stream.is_over
    assert asked.usage.output_tokens == tap.sent == n + 1
    assert asked.usage.estimated
    used = repr(asked.usage)
    await stream.aclose()
    assert repr(asked.usage) == used


async def test_tokens_that_come_one_by_one_are_counted_as_they_came_whatever_they_say(
    text: Text, upstream: Upstream
) -> None:
    tokens = [{"token": {"id": 1, "text": letter, "special": False}} for letter in "abcd"]
    events = [(f"data: {json.dumps(one)}\n\n".encode(), 1) for one in tokens]
    tap = Tap(upstream, lambda _: iter(events))
    asked = exchange("hf", stream=True)
    stream = await text.streamed(asked)
    frames = stream.frames()
    await anext(frames)
    for _ in tokens[1:]:
        tap.drip()
        await anext(frames)
    await stream.aclose()
    assert asked.usage.output_tokens == len(tokens)


async def test_what_is_said_after_the_last_usage_is_counted_too(
    text: Text, upstream: Upstream
) -> None:
    told = {"usage": {"prompt_tokens": 2, "completion_tokens": 5}}
    piece = {"choices": [{"delta": {"content": "four"}}]}
    events = [(f"data: {json.dumps(one)}\n\n".encode(), 1) for one in (piece | told, piece, piece)]
    tap = Tap(upstream, lambda _: iter(events))
    asked = exchange("openai", stream=True)
    stream = await text.streamed(asked)
    frames = stream.frames()
    await anext(frames)
    for _ in range(2):
        tap.drip()
        await anext(frames)
    await stream.aclose()
    assert asked.usage == Usage(input_tokens=2, output_tokens=7, estimated=True)


async def test_an_answer_ended_at_a_stop_used_what_came(text: Text, upstream: Upstream) -> None:
    tap = Tap(upstream, events_for())
    tap.drip()
    asked = exchange("hf", stream=True, stop=PIECE * 2)
    stream = await text.streamed(asked)
    async for _ in stream.frames():
        pass
    assert asked.usage == Usage(input_tokens=14, output_tokens=2, estimated=True)
    await stream.aclose()


async def test_the_finish_reason_is_that_of_the_choice_that_ended_first(
    text: Text, upstream: Upstream
) -> None:
    def ends(index: int, reason: str) -> tuple[bytes, int]:
        choice = {"index": index, "delta": {"content": "a"}, "finish_reason": reason}
        return f"data: {json.dumps({'choices': [choice]})}\n\n".encode(), 0

    tap = Tap(upstream, lambda _: iter([ends(1, "length"), ends(0, "stop")]))
    asked = exchange("openai", stream=True, n=2)
    stream = await text.streamed(asked)
    tap.drip()
    assert b"[DONE]" in b"".join([frame async for frame in stream.frames()])
    assert asked.finish == "length"
    await stream.aclose()
    upstream.play(play_whole)
    for dialect, reason in (("hf", "length"), ("openai", "stop")):
        asked = exchange(dialect)
        await text.answered(asked)
        assert asked.finish == reason
