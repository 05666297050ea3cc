"""What transcriptions may use at most, and what they have used."""

from __future__ import annotations

from array import array
from contextlib import suppress

import pytest

from adapters.base import Media, Task
from adapters.errors import UpstreamError
from gateway.amounts import Usage
from gateway.audio import Pcm, encode
from gateway.errors import BadRequest
from gateway.tasks.transcription import TranscriptionTask
from tests.gateway.taped import answered
from tests.gateway.usage.gate import exchange, route
from tests.gateway.usage.text_upstream import as_json
from tests.scripted_upstream import Upstream

pytestmark = pytest.mark.anyio

SECOND = encode(Pcm(8000, 1, array("h", [0] * 8000).tobytes()), "wav")


async def test_sound_is_used_once_it_was_heard(upstream: Upstream) -> None:
    path = route(upstream, Task.TRANSCRIPTION)
    answers = [as_json({"error": "CUDA error"}, status=500), as_json({"text": "Hello"})]
    upstream.play(*answers)
    for used in (Usage(), Usage(audio_ms=1000)):
        options = {"task": "transcribe", "response_format": "verbose_json"}
        asked = exchange(Task.TRANSCRIPTION, media=Media(SECOND), **options)
        job = await TranscriptionTask().prepare(asked, path)
        assert job.estimate == Usage(audio_ms=1000)
        assert len(upstream.visits) == int(used.audio_ms > 0)
        with suppress(UpstreamError):
            await answered(job)
        assert asked.usage == used


async def test_what_cannot_be_heard_is_refused_before_anything_is_sent(upstream: Upstream) -> None:
    asked = exchange(Task.TRANSCRIPTION, media=Media(b"noise"), task="transcribe")
    with pytest.raises(BadRequest):
        await TranscriptionTask().prepare(asked, route(upstream, Task.TRANSCRIPTION))
    assert upstream.visits == []
