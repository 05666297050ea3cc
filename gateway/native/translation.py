"""Native requests for servers that do not speak the native API: as OpenAI's bodies, and back.

    native                                OpenAI
    inputs                                prompt, input
    max_new_tokens                        max_tokens
    do_sample false                       temperature 0
    grammar of JSON                       response_format json_schema
    width, height                         size
    return_timestamps                     response_format verbose_json, timestamp_granularities

What has no counterpart is left out and named; a grammar that is no JSON is refused, as are pictures
sent to be changed, and all tasks that OpenAI does not have.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
from pydantic import TypeAdapter

from adapters.base import Json, Media, Task
from gateway.encoder import CONTENT_TYPES as SOUNDS
from gateway.errors import BadRequest
from gateway.exchange import Body
from gateway.images import CONTENT_TYPES as PICTURES
from gateway.images import sniff
from gateway.native.request import NativeRequest, invalid
from gateway.requests import COMPLETION, parse_body
from gateway.requests_embedding import EMBEDDING
from gateway.requests_image import IMAGE
from gateway.requests_speech import SPEECH

_TEXT_NAMES = MappingProxyType(
    {"max_new_tokens": "max_tokens"}
    | {
        name: name
        for name in "temperature top_p top_k typical_p repetition_penalty frequency_penalty "
        "truncate seed stop best_of".split()
    }
)
_TEXT_ELSEWHERE = frozenset({"do_sample", "details", "return_full_text", "grammar"})
_NO_WISHES: tuple[tuple[str, Any], ...] = (
    ("watermark", False),
    ("decoder_input_details", False),
    ("stop", []),
)
_JSON_GRAMMARS = ("json", "json_object", "json_schema")
_PICTURE_NAMES = ("negative_prompt", "guidance_scale", "num_inference_steps", "scheduler", "seed")
_SOUND_FORMS = {kind: form for form, kind in SOUNDS.items()}
_DEFAULT_SOUND = "flac"  # the hosted service's


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A request in OpenAI's form. `media`: the sound; `unheard`: names of what it cannot say."""

    body: Json
    media: Media | None = None
    unheard: tuple[str, ...] = ()


def translate(task: Task, asked: NativeRequest, *, max_tokens: int) -> Translation:
    """Return what a request is in OpenAI's form, all but the model's name.

    `max_tokens`: for texts that name no limit. Raises BadRequest for what cannot be said.
    """
    match task:
        case Task.COMPLETION:
            return _text(asked, max_tokens)
        case Task.IMAGE:
            return _picture(asked)
        case Task.SPEECH:
            return _speech(asked)
        case Task.EMBEDDING:
            return _embedding(asked)
        case _:
            return _transcription(asked)


def _text(asked: NativeRequest, max_tokens: int) -> Translation:
    given = {
        name: value for name, value in asked.parameters.items() if (name, value) not in _NO_WISHES
    }
    body = {"prompt": asked.text, "stream": asked.asks_stream, "max_tokens": max_tokens}
    body |= {_TEXT_NAMES[name]: value for name, value in given.items() if name in _TEXT_NAMES}
    if not asked.draws:
        body["temperature"] = 0
    if grammar := given.get("grammar"):
        body["response_format"] = _response_format(grammar)
    unheard = given.keys() - _TEXT_NAMES.keys() - _TEXT_ELSEWHERE
    return Translation(body=_checked(COMPLETION, body), unheard=tuple(sorted(unheard)))


def _response_format(grammar: Any) -> Json:
    kind = grammar.get("type") if isinstance(grammar, dict) else None
    if kind not in _JSON_GRAMMARS:
        raise _unsupported("`parameters.grammar` can only be a JSON schema here", "grammar")
    value = grammar.get("value")
    is_named = kind == "json_schema" and isinstance(value, dict)
    schema = value.get("schema", value) if is_named else value
    if isinstance(schema, str):
        schema = msgspec.json.decode(schema)
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _picture(asked: NativeRequest) -> Translation:
    given = dict(asked.parameters)
    if not asked.is_json:
        raise _unsupported("pictures cannot be changed, only made of `inputs`", "inputs")
    sides = given.pop("target_size", given)
    body = {"prompt": asked.text, "response_format": "b64_json"}
    if isinstance(sides, dict) and {"width", "height"} <= sides.keys():
        body["size"] = f"{sides['width']}x{sides['height']}"
    body |= {name: given[name] for name in _PICTURE_NAMES if name in given}
    unheard = given.keys() - {*_PICTURE_NAMES, "width", "height"}
    return Translation(body=_checked(IMAGE, body), unheard=tuple(sorted(unheard)))


def _speech(asked: NativeRequest) -> Translation:
    given = dict(asked.parameters)
    body = {
        "input": asked.text,
        "voice": given.pop("voice", "alloy"),  # OpenAI wants one: the model's default stands for it
        "response_format": _SOUND_FORMS.get(asked.accept, _DEFAULT_SOUND),
    }
    if "speed" in given:
        body["speed"] = given.pop("speed")
    return Translation(body=_checked(SPEECH, body), unheard=tuple(sorted(given)))


def _embedding(asked: NativeRequest) -> Translation:
    beside = {
        name: msgspec.json.decode(asked.members[name])
        for name in asked.members.keys() - {"inputs", "parameters", "options"}
    }
    body = {"input": asked.inputs, "encoding_format": "float"} | asked.parameters | beside
    return Translation(body=_checked(EMBEDDING, body))


def _transcription(asked: NativeRequest) -> Translation:
    given = dict(asked.parameters)
    wanted = given.pop("return_timestamps", False)
    generation = given.pop("generation_parameters", given.pop("generate_kwargs", {}))
    body: Json = {"task": "transcribe", "response_format": "verbose_json" if wanted else "json"}
    if wanted:
        body["timestamp_granularities"] = ["word" if wanted == "word" else "segment"]
    if isinstance(generation, dict):
        body |= {name: generation[name] for name in ("language", "task") if name in generation}
    try:
        data = b64decode(asked.text, validate=True) if asked.is_json else asked.data
    except binascii.Error:
        raise invalid("`inputs` must be a sound in base64", param="inputs") from None
    return Translation(body=body, media=Media(data), unheard=tuple(sorted(given)))


def _checked(schema: TypeAdapter[Any], body: Json) -> Json:
    """Return a body without what is null, once it is what OpenAI's route takes.

    Raises BadRequest in OpenAI's words: what is wrong was translated with its name.
    """
    checked = parse_body(schema, msgspec.json.encode({"model": "", **body}))
    del checked["model"]
    return checked


def _unsupported(sentence: str, name: str) -> BadRequest:
    return BadRequest(
        f"This model's server does not speak the native API: {sentence}.",
        status=501,
        code="unsupported_parameter",
        param=f"parameters.{name}",
    )


def _picture_of(body: Body) -> Body:
    [image] = msgspec.json.decode(body.data)["data"]
    data = b64decode(image["b64_json"])
    return Body(data, PICTURES.get(sniff(data) or "", "application/octet-stream"))


def _vectors_of(body: Body) -> Body:
    data = msgspec.json.decode(body.data)["data"]
    return Body(msgspec.json.encode([item["embedding"] for item in data]))


def _transcript_of(body: Body) -> Body:
    said = msgspec.json.decode(body.data)
    native: Json = {"text": said["text"]}
    if spans := said.get("words") or said.get("segments"):
        native["chunks"] = [*map(_chunk_of, spans)]
    return Body(msgspec.json.encode(native))


def _chunk_of(span: Json) -> Json:
    text = span["word"] if "word" in span else span["text"]
    return {"text": text, "timestamp": [span["start"], span["end"]]}


IN_NATIVE: Mapping[Task, Callable[[Body], Body]] = MappingProxyType(
    {
        Task.IMAGE: _picture_of,
        Task.EMBEDDING: _vectors_of,
        Task.TRANSCRIPTION: _transcript_of,
    }
)
"""What makes the native API's answers of OpenAI's, for tasks whose answers differ."""
