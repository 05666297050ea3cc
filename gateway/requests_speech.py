"""The body of `POST /v1/audio/speech`. Source: the types of the official Python SDK, 3.54."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

from pydantic import Field, TypeAdapter

from gateway.requests import OpenObject

_LONGEST_TEXT = 4096  # characters
VoiceName = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=_LONGEST_TEXT)]


class VoiceReference(OpenObject, total=False):
    """A voice of one's own."""

    id: Required[VoiceName]


class SpeechRequest(OpenObject, total=False):
    """`POST /v1/audio/speech`."""

    model: Required[str]
    input: Required[Annotated[Text, Field(min_length=1)]]
    voice: Required[VoiceName | VoiceReference]
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None
    speed: Annotated[float, Field(ge=0.25, le=4)] | None
    instructions: Text | None
    stream_format: Literal["audio", "sse"] | None


SPEECH: TypeAdapter[Any] = TypeAdapter(SpeechRequest)
