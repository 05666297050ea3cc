"""The fields of requests: another value for each, and whether it can change the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.base import Json, Task
from gateway.requests_audio import TranscriptionForm
from gateway.requests_embedding import EmbeddingRequest
from gateway.requests_image import ImageRequest
from gateway.requests_speech import SpeechRequest

PASSED_ON = "the key holds what the name stands for"
DELIVERY = "the answer is the same, however it is delivered"
WHO = "says who asks, not what for"


@dataclass(frozen=True)
class Walk:
    """A task's request, walked field by field. `besides`: what goes with a field to be valid."""

    task: Task
    schema: Any
    body: Json
    changing: Mapping[str, Any]
    not_changing: Mapping[str, tuple[Any, str]]
    besides: Mapping[str, Json] = field(default_factory=dict)


WALKS = {
    walk.task: walk
    for walk in (
        Walk(
            Task.IMAGE,
            ImageRequest,
            {"prompt": "fox", "seed": 1},
            changing={
                "prompt": "bear",
                "n": 2,  # this upstream makes all of them in one call
                "size": "64x64",
                "output_format": "webp",
                "output_compression": 50,
                "quality": "high",
                "style": "vivid",
                "background": "opaque",
                "moderation": "low",
                "seed": 2,
                "negative_prompt": "hunter",
                "guidance_scale": 7.5,
                "num_inference_steps": 4,
                "scheduler": "euler",
            },
            not_changing={
                "model": ("alias", PASSED_ON),
                "response_format": ("url", DELIVERY),
                "stream": (True, DELIVERY),
                "partial_images": (2, "there are none: images come when they are finished"),
                "user": ("someone", WHO),
            },
        ),
        Walk(
            Task.SPEECH,
            SpeechRequest,
            {"input": "Hello.", "voice": "alloy"},
            changing={
                "input": "Bye.",
                "voice": "onyx",
                "response_format": "flac",
                "speed": 2.0,
                "instructions": "Whisper.",
            },
            not_changing={"model": ("alias", PASSED_ON), "stream_format": ("sse", DELIVERY)},
        ),
        Walk(
            Task.EMBEDDING,
            EmbeddingRequest,
            {"input": ["one", "two"]},
            changing={
                "input": ["one", "three"],
                "dimensions": 2,
                "encoding_format": "base64",
                "normalize": True,
                "truncate": True,
                "truncation_direction": "left",
                "prompt_name": "query",
            },
            not_changing={"model": ("alias", PASSED_ON), "user": ("someone", WHO)},
        ),
        Walk(
            Task.TRANSCRIPTION,
            TranscriptionForm,
            {"task": "transcribe", "response_format": "verbose_json"},
            changing={
                "prompt": "Names: Ann.",
                "response_format": "json",
                "temperature": 0.5,
                "language": "en",
                "timestamp_granularities": ["word"],
                "include": ["logprobs"],
            },
            not_changing={"model": ("alias", PASSED_ON), "stream": (True, DELIVERY)},
            besides={"stream": {"response_format": "json"}},
        ),
    )
}
