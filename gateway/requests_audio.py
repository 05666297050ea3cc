"""The forms of `POST /v1/audio/transcriptions` and `/v1/audio/translations`.

A form's values are texts, so numbers and booleans are read out of them. Source: the types of the
official Python SDK, 3.54.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from adapters.base import Json, Media
from gateway.errors import BadRequest, from_validation
from gateway.forms import Form

_LENIENT = ConfigDict(extra="allow", allow_inf_nan=False)


class TranslationForm(TypedDict, total=False):
    """`POST /v1/audio/translations`, without its file."""

    __pydantic_config__ = _LENIENT  # type: ignore[misc]
    model: Required[str]
    prompt: str
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"]
    temperature: Annotated[float, Field(ge=0, le=1)]


class TranscriptionForm(TranslationForm, total=False):
    """`POST /v1/audio/transcriptions`, without its file."""

    language: Annotated[str, Field(max_length=40)]
    stream: bool
    timestamp_granularities: Annotated[list[Literal["word", "segment"]], Field(max_length=2)]
    include: Annotated[list[str], Field(max_length=16)]


TRANSCRIPTION: TypeAdapter[Any] = TypeAdapter(TranscriptionForm)
TRANSLATION: TypeAdapter[Any] = TypeAdapter(TranslationForm)


def parse_transcription(form: Form) -> tuple[Json, Media]:
    """Return the fields and the sound. Raises BadRequest naming the first that is wrong."""
    return _parse(TRANSCRIPTION, form) | {"task": "transcribe"}, _sound(form)


def parse_translation(form: Form) -> tuple[Json, Media]:
    """Return the fields and the sound. Raises BadRequest naming the first that is wrong."""
    body = _parse(TRANSLATION, form)
    body.pop("stream", None)  # translations are never streamed
    return body | {"task": "translate"}, _sound(form)


def _parse(schema: TypeAdapter[Any], form: Form) -> Json:
    sent = _values(form)
    try:
        body: Json = schema.validate_python(sent)
    except ValidationError as exc:
        raise from_validation(exc.errors(include_url=False), sent) from None
    return body


def _values(form: Form) -> Json:
    """Return the fields by name. Those left empty are absent, those sent as `name[]` are lists."""
    values: Json = {}
    for name, texts in form.fields.items():
        plain = name.removesuffix("[]")
        if plain != name or plain in _LISTS:
            values[plain] = form.texts(plain)
        elif texts[-1]:
            values[name] = texts[-1]
    return values


_LISTS = frozenset({"timestamp_granularities", "include"})


def _sound(form: Form) -> Media:
    data = form.file().data
    if not data:
        raise BadRequest("'file' is empty.", code="invalid_file", param="file")
    return Media(data)
