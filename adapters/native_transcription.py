"""Native speech recognition as OpenAI's transcriptions and translations: `POST {base}/models/{id}`.

The sound goes as it is where nothing else is to be said, else in base64 beside `parameters`, as
huggingface_hub 1.x and huggingface-inference-toolkit have it.

    OpenAI                           native `parameters`
    verbose_json, srt, vtt           return_timestamps: true
    timestamp_granularities[] word   return_timestamps: "word"
    language, temperature > 0        generation_parameters
    /audio/translations              generation_parameters.task: "translate"
    prompt, include[], the rest      none: left out and named

Whisper's models for English alone (`….en`) refuse to be told a language or a task.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from adapters import refusals
from adapters.base import Call, Json, Plan, Request
from adapters.leaving_out import names_left_out
from adapters.native import model_path
from adapters.transcription_parameters import media_of, wants_times, wants_words

_HONOURED = frozenset(
    {"model", "task", "stream", "response_format", "timestamp_granularities", "temperature"}
)
_ENGLISH = frozenset({"en", "english"})


class _Chunk(msgspec.Struct, frozen=True):
    text: str
    timestamp: list[float | None] | None = None


class _Answer(msgspec.Struct, frozen=True):
    text: str
    chunks: list[_Chunk] | None = None


_read = msgspec.json.Decoder(_Answer).decode


class NativeTranscription:
    """Whisper and its like at hf-inference or an endpoint; without a model it is asked at `/`."""

    renders = False

    def plan(self, request: Request) -> Plan:
        """Return the one call, and the names of the fields that it cannot say."""
        media = media_of(request)
        path = model_path(request.model)
        if parameters := _parameters(request):
            payload = {"inputs": media.data, "parameters": parameters}  # bytes become base64
            call = Call(path=path, body=msgspec.json.encode(payload))
        else:
            call = Call(path=path, body=media.data, headers={"content-type": media.type})
        return Plan((call,), _left_out(request))

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `text` and, if they were asked for, `segments` or `words`.

        Both are native chunks. Raises UpstreamError for an error under status 200.
        """
        found = _parse(body)
        answer: Json = {"text": found.text.strip()}
        if wants_times(request.body) and found.chunks:
            kind = "words" if wants_words(request.body) else "segments"
            answer[kind] = msgspec.to_builtins(found.chunks)
        return answer


def _is_english_only(request: Request) -> bool:
    return request.model.lower().endswith(".en")


def _parameters(request: Request) -> Json:
    body = request.body
    parameters: Json = {}
    if wants_times(body):
        parameters["return_timestamps"] = "word" if wants_words(body) else True
    generation: Json = {}
    if body.get("temperature"):
        generation["temperature"] = body["temperature"]
    if not _is_english_only(request):
        if "language" in body:
            generation["language"] = body["language"]
        if body.get("task") == "translate":
            generation["task"] = "translate"
    return parameters | ({"generation_parameters": generation} if generation else {})


def _left_out(request: Request) -> tuple[str, ...]:
    body = request.body
    honoured = set(_HONOURED)
    if not _is_english_only(request) or body.get("language", "en").lower() in _ENGLISH:
        honoured.add("language")
    if body.get("response_format") != "verbose_json":
        honoured.discard("timestamp_granularities")
    return names_left_out(body, honoured=honoured)


def _parse(body: bytes) -> _Answer:
    try:
        return _read(body)
    except msgspec.DecodeError as exc:
        raise refusals.from_unreadable(body, "The upstream's answer holds no text.") from exc
