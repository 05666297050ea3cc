"""Text to speech: a hibari voice behind the text-to-speech pipeline, answered as WAV."""

from __future__ import annotations

import io
import secrets
import time
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapters.local.packaged import Needs, PackagedFile
from adapters.local.pipeline import Reader, choice, headers, integer, number, parse_payload, string
from adapters.local.problems import Invalid
from adapters.local.registry import Question, Whole
from adapters.local.resident import Resident, ResidentSettings

if TYPE_CHECKING:
    from adapters.local.voice import Voice

_LOAD_SECONDS = 1.5
_MOST_CHARACTERS = 4096
_SLOWEST, _FASTEST = 0.25, 4.0
_SAMPLE_BYTES = 2

_VOICE = "heart"
_WEIGHTS = PackagedFile(
    package="hibari",
    path="assets/hibari.onnx",
    size_bytes=7_936_868,
    sha256="5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
)
_NEEDS = Needs(extra="local", modules=("numpy", "onnxruntime", "hibari"), files=(_WEIGHTS,))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSettings:
    """How the speech model is run."""

    resident: ResidentSettings = field(default_factory=ResidentSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The parameters of one reading. The seed draws its breath noise, fresh if none is given."""

    voice: str = _VOICE
    speed: float = 1.0
    seed: int = field(default_factory=lambda: secrets.randbits(64))


class SpeechModel(Resident["Voice"]):
    """An American English voice of 8 MB."""

    id = "hibari-tts/heart"
    task = "text-to-speech"
    framework = "onnxruntime"
    body_limit_bytes = 100_000

    def __init__(self, settings: SpeechSettings | None = None) -> None:
        self._settings = settings or SpeechSettings()
        super().__init__(
            needs=_NEEDS, expected_seconds=_LOAD_SECONDS, settings=self._settings.resident
        )

    async def answer(self, question: Question) -> Whole:
        """Answer with 16-bit mono WAV, whatever `Accept` says. Raises Problem."""
        started_at = time.perf_counter()
        payload = parse_payload(question.body, _READERS)
        text = _TEXT(payload.inputs, "inputs")
        reading = Reading(**payload.parameters)
        wav = await self.run(lambda voice, checkpoint: _read(voice, text, reading, checkpoint))
        return Whole(
            body=wav,
            headers=headers(started_at, x_compute_characters=len(text)),
            media_type="audio/wav",
        )

    def info(self) -> Mapping[str, Any]:
        return {
            "model_sha": _WEIGHTS.sha256,
            "max_concurrent_requests": self._settings.resident.max_requests,
            "max_input_characters": _MOST_CHARACTERS,
            "voices": [_VOICE],
        }

    def load(self) -> Voice:
        """Return the engine, ready to be used. Raises PackageMissing. Blocks."""
        with _NEEDS.imports():
            from adapters.local.voice import Voice
        return Voice(_NEEDS.find(_WEIGHTS), threads=self._settings.resident.threads)


def render_wav(samples: bytes, *, rate: int) -> bytes:
    """Return a WAV file of mono 16-bit little-endian `samples`."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(_SAMPLE_BYTES)
        writer.setframerate(rate)
        writer.writeframes(samples)
    return file.getvalue()


def _read(voice: Voice, text: str, reading: Reading, checkpoint: Callable[[], None]) -> bytes:
    parts: list[bytes] = []
    for part in voice.read(text, speed=reading.speed, seed=reading.seed):
        checkpoint()
        parts.append(part)
    samples = b"".join(parts)
    if not samples:
        raise Invalid("`inputs` holds nothing that can be read aloud")
    return render_wav(samples, rate=voice.sample_rate)


_TEXT = string(longest=_MOST_CHARACTERS)
_READERS: Mapping[str, Reader] = {
    "voice": choice(_VOICE),
    "speed": number(_SLOWEST, _FASTEST),
    "seed": integer(0, 2**64 - 1),
}
