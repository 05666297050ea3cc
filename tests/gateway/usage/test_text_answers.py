"""What answers of text may use at most, and what they have used."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from adapters.base import Call, Json, Task
from adapters.errors import Failed
from gateway.amounts import Usage
from gateway.exchange import Body, Exchange
from gateway.templates import Template
from gateway.usage import UsageMeter
from tests.gateway.running import DIALECTS
from tests.gateway.usage.text_upstream import (
    PROMPT,
    TOKENS,
    Tap,
    Text,
    as_json,
    directly,
    events_for,
    exchange,
    play_whole,
    routes,
    whole,
)
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

EACH = [(dialect, n) for dialect in DIALECTS for n in (1, 3)]


async def told_to_client(text: Text, asked: Exchange) -> Any:
    """Return the `usage` that the client gets, of a stream or of a whole answer."""
    answer = await text.answered(asked)
    if isinstance(answer, Body):
        return json.loads(answer.data)["usage"]
    frames = b"".join([frame async for frame in answer.frames()]).split(b"\n\n")
    await answer.aclose()
    return json.loads(frames[-3].removeprefix(b"data: "))["usage"]


@pytest.mark.parametrize("counts_tokens", [True, False])
@pytest.mark.parametrize(("dialect", "n"), EACH)
async def test_an_estimate_is_at_least_what_a_whole_answer_uses(
    text: Text, upstream: Upstream, dialect: str, n: int, counts_tokens: bool
) -> None:
    upstream.play(play_whole)
    asked = exchange(dialect, n=n, max_tokens=20)
    asked.counts_tokens = counts_tokens
    job = await text.prepared(asked)
    await directly(job)
    assert asked.usage == Usage(input_tokens=7, output_tokens=20 * n)
    assert job.estimate.input_tokens >= 7
    assert job.estimate.output_tokens == 20 * n


@pytest.mark.parametrize(
    ("dialect", "kind", "body", "tokens"),
    [
        ("hf", Task.CHAT, {}, 50),
        ("openai", Task.CHAT, {}, 50),
        ("openai", Task.CHAT, {"max_tokens": 9, "max_completion_tokens": 8}, 8),
        ("hf", Task.COMPLETION, {}, 16),
        ("hf", Task.COMPLETION, {"prompt": ["a", "b"], "n": 3, "max_tokens": 2}, 12),
        ("openai", Task.COMPLETION, {"prompt": ["a", "b"], "n": 3, "max_tokens": 2}, 12),
        ("openai", Task.COMPLETION, {"best_of": 5, "n": 2}, 80),
        ("hf", Task.COMPLETION, {"best_of": 5, "n": 2}, 32),  # which makes two
        ("openai", Task.COMPLETION, {"max_tokens": 0, "echo": True}, 0),
    ],
)
async def test_the_output_is_estimated_as_what_the_upstream_is_allowed(
    text: Text,
    dialect: str,
    kind: Task,
    body: dict[str, Any],
    tokens: int,
) -> None:
    job = await text.prepared(exchange(dialect, task=kind, **body))
    assert job.estimate.output_tokens == tokens


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_an_upstream_does_not_tell_is_counted_and_told_to_the_client(
    text: Text, upstream: Upstream, dialect: str, stream: bool
) -> None:
    asked = exchange(dialect, stream=stream, stream_options={"include_usage": True})
    if stream:
        tap = Tap(upstream, events_for(told=False))
        for _ in range(TOKENS + 1):
            tap.drip()
    else:
        upstream.play(lambda visit: visit.send(whole(visit, told=False)))
    told = await told_to_client(text, asked)
    assert asked.usage.estimated
    used = (asked.usage.input_tokens, asked.usage.output_tokens)
    assert (told["prompt_tokens"], told["completion_tokens"]) == used
    assert used == ({"openai": 5}.get(dialect, 14), TOKENS if stream else 2)


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ({"content": None, "reasoning_content": "four" * 3}, 3),
        ({"content": "four", "reasoning": "four"}, 2),
        ({"content": None, "tool_calls": [{"function": {"name": "four", "arguments": "{}  "}}]}, 2),
        ({"content": None, "tool_calls": [{"custom": {"name": "four", "input": "four"}}]}, 2),
        ({"content": None, "refusal": "four"}, 1),
    ],
)
async def test_reasoning_and_calls_are_counted_as_text(
    text: Text, upstream: Upstream, said: dict[str, Any], tokens: int
) -> None:
    answer = {"choices": [{"message": said, "finish_reason": "stop"}]}
    upstream.play(as_json(answer))
    for stream in (False, True):  # a server that does not stream is streamed all the same
        asked = exchange("openai", stream=stream, stream_options={"include_usage": True})
        await told_to_client(text, asked)
        assert asked.usage.output_tokens == tokens


@pytest.mark.parametrize("dialect", ["hf", "openai"])
async def test_a_prompt_is_counted_once(
    text: Text,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    dialect: str,
) -> None:
    counted: list[tuple[str, threading.Thread]] = []
    count = Template.count

    def noting(self: Template, prompt: str) -> int:
        counted.append((prompt, threading.current_thread()))
        return count(self, prompt)

    monkeypatch.setattr(Template, "count", noting)
    text.routes = routes(upstream.url, tokenizers=DIALECTS)
    upstream.play(lambda visit: visit.send(whole(visit, told=False)))
    prompt = PROMPT * 2000  # so long that the loop must not wait
    asked = exchange(dialect, messages=[{"role": "user", "content": prompt}])
    job = await text.prepared(asked)
    await directly(job)
    [thread] = [thread for found, thread in counted if prompt in found]
    assert thread is not threading.main_thread()
    assert job.estimate.input_tokens >= asked.usage.input_tokens > 8000


async def test_each_of_several_prompts_is_counted_once_whatever_its_choices(
    text: Text, upstream: Upstream
) -> None:
    upstream.play(lambda visit: visit.send(whole(visit, told=False)))
    asked = exchange("hf", task=Task.COMPLETION, prompt=["one", "one two three"], n=2)
    job = await text.prepared(asked)
    await directly(job)
    assert asked.usage == Usage(input_tokens=4, output_tokens=8, estimated=True)
    assert job.estimate.input_tokens == 4


async def test_a_native_answer_in_one_piece_is_counted_where_a_stream_was_asked_for(
    text: Text, upstream: Upstream
) -> None:
    upstream.play(lambda visit: visit.send(whole(visit, told=False)))
    asked = exchange("hf", stream=True, stream_options={"include_usage": True})
    told = await told_to_client(text, asked)
    assert asked.usage.output_tokens == told["completion_tokens"] == 2


async def test_what_failed_or_was_left_before_anything_came_used_nothing(
    text: Text, upstream: Upstream
) -> None:
    for stream in (False, True):
        upstream.play(as_json({"error": "CUDA error"}, status=500))
        asked = exchange("hf", stream=stream, n=3)
        with pytest.raises(Failed):
            await text.answered(asked)
        assert asked.usage == Usage()
        upstream.rest()
        upstream.play(Visit.gone)
        sending = asyncio.create_task(text.answered(asked))
        await upstream.arrival()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert asked.usage == Usage()


async def test_choices_that_came_before_another_failed_were_used(
    text: Text,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came = asyncio.Semaphore(0)
    note = UsageMeter.note

    def noting(
        self: UsageMeter, call: Call, said: Iterable[Json], *, tokens: int | None = None
    ) -> None:
        note(self, call, said, tokens=tokens)
        came.release()

    async def fail(visit: Visit) -> None:
        await came.acquire()
        await came.acquire()
        await visit.send(as_json({"error": "CUDA error"}, status=500))

    monkeypatch.setattr(UsageMeter, "note", noting)
    upstream.play(play_whole, fail, play_whole)
    asked = exchange("hf", n=3, max_tokens=20)
    with pytest.raises(Failed):
        await text.answered(asked)
    assert asked.usage == Usage(input_tokens=7, output_tokens=40)
