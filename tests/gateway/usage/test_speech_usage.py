"""What speech may use at most, and what it has used whenever it ends."""

from __future__ import annotations

from array import array

import pytest

from adapters.base import Task
from gateway.amounts import Usage
from gateway.audio import Pcm, encode
from gateway.exchange import Body
from gateway.tasks.speech import SpeechTask
from tests.gateway.image_route.painting import http
from tests.gateway.taped import answered
from tests.gateway.usage.gate import Gate, exchange, left_after, route
from tests.gateway.usage.text_upstream import as_json
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

SECOND = encode(Pcm(8000, 1, array("h", [0] * 8000).tobytes()), "wav")
SENTENCES = [f"Sentence {at} {'word ' * 50}ends. " for at in range(3)]  # a piece each


def sentence_number(visit: Visit) -> int:
    return SENTENCES.index(visit.body["inputs"])


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
@pytest.mark.parametrize("reads", range(3))
async def test_speech_that_is_left_used_what_was_spoken(
    upstream: Upstream, reads: int, stream_format: str
) -> None:
    gate = Gate(upstream, lambda _: http(SECOND, kind="audio/wav"), turn=sentence_number)
    text = "".join(SENTENCES)
    asked = exchange(
        Task.SPEECH, input=text, voice="alloy", response_format="pcm", stream_format=stream_format
    )
    job = await SpeechTask().prepare(asked, route(upstream, Task.SPEECH))
    assert job.estimate == Usage(characters=len(text))
    await gate.open()
    stream = await answered(job)
    assert not isinstance(stream, Body)
    assert asked.usage == Usage(characters=len(SENTENCES[0]), audio_ms=1000)
    await left_after(stream, gate, reads=reads)
    spoken = reads + 1
    assert spoken == gate.answered
    characters = sum(map(len, SENTENCES[:spoken]))
    assert asked.usage == Usage(characters=characters, audio_ms=spoken * 1000)


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_speech_that_breaks_off_used_what_was_spoken(
    upstream: Upstream, stream_format: str
) -> None:
    def answer(visit: Visit) -> bytes:
        if sentence_number(visit):
            return as_json({"error": "CUDA error"}, status=500)
        return http(SECOND, kind="audio/wav")

    gate = Gate(upstream, answer, turn=sentence_number)
    asked = exchange(
        Task.SPEECH, input="".join(SENTENCES), voice="alloy", stream_format=stream_format
    )
    job = await SpeechTask().prepare(asked, route(upstream, Task.SPEECH))
    await gate.open()
    stream = await answered(job)
    assert not isinstance(stream, Body)
    visits = {sentence_number(visit): visit for visit in [await upstream.arrival() for _ in "123"]}
    async for _ in stream.frames():
        await gate.open()
    await visits[2].gone()  # nothing more comes, though it is not closed yet
    assert stream.error
    assert asked.usage == Usage(characters=len(SENTENCES[0]), audio_ms=1000)
    await stream.aclose()


async def test_speech_in_one_piece_used_all_of_it(upstream: Upstream) -> None:
    upstream.play(http(SECOND, kind="audio/wav"))
    asked = exchange(Task.SPEECH, input="Hello.", voice="alloy", response_format="wav")
    await answered(await SpeechTask().prepare(asked, route(upstream, Task.SPEECH)))
    assert asked.usage == Usage(characters=6, audio_ms=1000)
