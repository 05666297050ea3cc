"""What ends when an answer fails, or is no longer wanted: each tape, and each call of a part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters.base import Task
from adapters.errors import Failed
from gateway.audio import Pcm, encode
from gateway.errors import GatewayError
from gateway.exchange import Body, Job
from gateway.tapes import Piece
from gateway.tasks.image import ImageTask
from gateway.tasks.speech import SpeechTask
from tests.gateway.image_route.painting import http
from tests.gateway.taped import Played
from tests.gateway.usage.gate import exchange, route
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

SECOND = encode(Pcm(8000, 1, bytes(16_000)), "wav")
SENTENCES = [f"Sentence {at} {'word ' * 50}ends. " for at in range(3)]  # a piece each


class Failing(Played):
    """A tape that cannot be read."""

    async def pieces(self) -> AsyncIterator[Piece]:
        for _ in self._recorded:
            yield Piece(0)
        raise Failed("CUDA error")


class Endless(Played):
    """A tape that nothing is written to."""

    async def pieces(self) -> AsyncIterator[Piece]:
        await asyncio.Event().wait()
        yield Piece(0)


@pytest.mark.parametrize("stream", [False, True])
async def test_all_tapes_are_closed_when_one_fails(upstream: Upstream, stream: bool) -> None:
    asked = exchange(Task.IMAGE, prompt="fox", n=3, stream=stream)
    job = await ImageTask(None).prepare(asked, route(upstream, Task.IMAGE))
    tapes = [Endless([]), Failing([]), Endless([])]
    with pytest.raises(Failed):
        await job.answer(tapes)
    assert all(tape.closed for tape in tapes)


@pytest.mark.parametrize("stream", [False, True])
async def test_all_tapes_are_closed_when_the_client_leaves_at_once(
    upstream: Upstream, stream: bool
) -> None:
    asked = exchange(Task.IMAGE, prompt="fox", n=3, stream=stream)
    job = await ImageTask(None).prepare(asked, route(upstream, Task.IMAGE))
    tapes = [Endless([]) for _ in job.parts]
    answering = asyncio.create_task(job.answer(tapes))
    await asyncio.sleep(0)  # it has begun, and nothing that it began has
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert all(tape.closed for tape in tapes)


@pytest.mark.parametrize("pieces", range(5))
async def test_speech_that_is_no_longer_wanted_ends_its_calls(
    upstream: Upstream, pieces: int
) -> None:
    async def speak(visit: Visit) -> None:
        if visit.body["inputs"] == SENTENCES[2]:
            await visit.gone(within_seconds=5)
        else:
            await visit.send(http(SECOND, kind="audio/wav"))

    upstream.play(speak)
    asked = exchange(Task.SPEECH, input="".join(SENTENCES), voice="alloy")
    job: Job = await SpeechTask().prepare(asked, route(upstream, Task.SPEECH))
    [part] = job.parts
    making = part.make()
    for _ in range(pieces):
        await anext(making)
    visits = [await upstream.arrival() for _ in SENTENCES] if pieces else []
    await making.aclose()  # type: ignore[attr-defined]
    for visit in visits:
        if visit.body["inputs"] == SENTENCES[2]:
            await visit.gone()
    assert await anext(making, None) is None


class Cut(Played):
    """A tape of speech that ends after the first part, by no fault of an upstream's."""

    async def pieces(self) -> AsyncIterator[Piece]:
        yield Piece([b"", 5, 0])
        yield Piece([b"sound", 5, 100])
        raise GatewayError("What was shared has ended.", code="gone")


async def test_speech_that_is_cut_off_here_is_told_as_it_is(upstream: Upstream) -> None:
    asked = exchange(Task.SPEECH, input="".join(SENTENCES), voice="alloy", stream_format="sse")
    job = await SpeechTask().prepare(asked, route(upstream, Task.SPEECH))
    stream = await job.answer([Cut([])])
    assert not isinstance(stream, Body)
    *_, last = [frame async for frame in stream.frames()]
    assert b'"code":"gone"' in last
    assert stream.error
    await stream.aclose()
