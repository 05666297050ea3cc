"""Servers that already speak OpenAI: vLLM, SGLang, llama.cpp, the Hub's router.

The client's body goes on as it came, unknown fields included; what comes back is normalised by
the gateway's encoder, so here it is only read. Servers differ in how they are told the schema of
an answer (source: what `huggingface_hub` 2.4 sends to each of them):

    OpenAI's own          {"type": "json_schema", "json_schema": {"name", "schema": …}}
    Together              {"type": "json_schema", "schema": …}
    Fireworks, Cohere     {"type": "json_object", "schema": …}
    hf-inference          {"type": "json_object", "value": …}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters import refusals
from adapters.base import Call, Decoder, Json, Plan, Request, Task
from adapters.errors import Interrupted, UpstreamError
from adapters.logprobs import completion_logprobs, read_chat_logprobs
from adapters.native import model_path
from adapters.sse import EventParser

_PATHS = {Task.CHAT: "/chat/completions", Task.COMPLETION: "/completions"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaForm:
    """A `response_format` that tells a schema: its `type`, and under which name the schema is."""

    type: str
    name: str

    def render(self, schema: Json) -> Json:
        """Return the `response_format` of `schema`."""
        return {"type": self.type, self.name: schema}


TOGETHER_SCHEMA = SchemaForm(type="json_schema", name="schema")
FIREWORKS_SCHEMA = SchemaForm(type="json_object", name="schema")
HF_SCHEMA = SchemaForm(type="json_object", name="value")


class OpenAIText:
    """Base URLs end in `/v1` or what stands for it.

    `by_model`: where each model has an address of its own below the base URL. `schema_form`: as
    the server is told of schemas, None for OpenAI's own way.
    """

    renders = False

    def __init__(self, *, by_model: bool = False, schema_form: SchemaForm | None = None) -> None:
        self._by_model = by_model
        self._schema_form = schema_form

    def plan(self, request: Request) -> Plan:
        """Return the one call. A stream is always asked for its usage: it has to be metered."""
        body = request.body | {"model": request.model}
        if request.stream:
            options = body.get("stream_options") or {}
            body |= {"stream": True, "stream_options": options | {"include_usage": True}}
        else:
            body.pop("stream_options", None)
        if wanted := body.get("response_format"):
            body["response_format"] = self._response_format(wanted)
        return Plan((Call(path=self._path(request), body=msgspec.json.encode(body)),))

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return the upstream's object. Raises UpstreamError for an error under status 200."""
        answer = _parse(body)
        if mending := _mending(request):
            mending.mend(answer)
        return answer

    def decoder(self, request: Request, call: Call) -> Decoder:
        """Return a fresh decoder of one stream."""
        return StreamDecoder(_mending(request))

    def _path(self, request: Request) -> str:
        path = _PATHS[request.task]
        return f"{model_path(request.model).rstrip('/')}/v1{path}" if self._by_model else path

    def _response_format(self, wanted: Json) -> Json:
        """Return `wanted` with its schema, if it has one, in the server's form.

        The client may have told it in another: `huggingface_hub` has hf-inference's for whatever
        it is given the address of.
        """
        schema = _schema_in(wanted)
        if schema is None:
            return wanted
        if self._schema_form:
            return self._schema_form.render(schema)
        if "value" not in wanted:
            return wanted
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


class _Mending:
    """What llama.cpp says otherwise than OpenAI, in one answer.

    Log probabilities of a completion have the form of a chat's. The usage, beside which there are
    `timings`, is that of one choice or prompt alone: of several it is left out, to be counted.
    """

    __slots__ = ("_has_several", "_is_chat", "_said")

    def __init__(self, *, is_chat: bool, has_several: bool) -> None:
        self._is_chat = is_chat
        self._has_several = has_several
        self._said: dict[int, int] = {}  # index of a choice → characters so far

    def mend(self, said: Json) -> None:
        """Mend a chunk, or the whole, in place. Raises Interrupted for what cannot be read."""
        if self._has_several and "timings" in said:
            said["usage"] = None
        if not self._is_chat:
            self._mend_logprobs(said)

    def _mend_logprobs(self, said: Json) -> None:
        for choice in said.get("choices") or ():
            index = choice.get("index") or 0
            offset = self._said.get(index, 0)
            self._said[index] = offset + len(choice.get("text") or "")
            if content := (choice.get("logprobs") or {}).get("content"):
                tokens = read_chat_logprobs(content, offset=offset)
                choice["logprobs"] = completion_logprobs([*tokens])


def _mending(request: Request) -> _Mending | None:
    """Return what mends an answer to `request`, None if there is nothing to be mended."""
    is_chat = request.task is Task.CHAT
    has_several = request.body.get("n", 1) > 1 or (not is_chat and _has_several_prompts(request))
    if is_chat and not has_several:
        return None
    return _Mending(is_chat=is_chat, has_several=has_several)


def _has_several_prompts(request: Request) -> bool:
    match request.body.get("prompt"):
        case [str() | list(), _, *_]:
            return True
        case _:
            return False


class StreamDecoder:
    """One stream of chunk objects. It is whole once a finish reason or `[DONE]` was seen."""

    __slots__ = ("_events", "_finished", "_mending", "done", "ended", "failure")

    tokens = None  # a chunk may hold any number

    def __init__(self, mending: _Mending | None = None) -> None:
        self._mending = mending
        self._events = EventParser()
        self._finished = False
        self.done = self.ended = False
        self.failure: UpstreamError | None = None

    def feed(self, data: bytes) -> list[Json]:
        """Return the chunks completed by `data`. Raises UpstreamError if an error comes first."""
        return self._chunks(self._events.feed(data))

    def end(self) -> list[Json]:
        """Return the chunks of a last event without blank line. Raises Interrupted if cut short."""
        chunks = self._chunks(self._events.end())
        if not (self.done or self._finished):
            raise Interrupted("The upstream's stream ended before its finish reason.")
        return chunks

    def _chunks(self, payloads: list[bytes]) -> list[Json]:
        chunks: list[Json] = []
        for payload in payloads:
            if payload == b"[DONE]":
                self.done = self.ended = True
                break
            if payload == b"null":
                continue  # how llama.cpp begins the stream of several prompts
            try:
                chunk = _parse(payload)
                if self._mending:
                    self._mending.mend(chunk)
            except UpstreamError as exc:
                if not chunks:
                    raise
                self.failure = exc
                break
            choices = chunk.get("choices")
            if choices and any(choice.get("finish_reason") for choice in choices):
                self._finished = True
            chunks.append(chunk)
        return chunks


def _schema_in(wanted: Json) -> Json | None:
    described = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and isinstance(described, dict):
        schema = described.get("schema")
    else:
        schema = wanted.get("value") or wanted.get("schema")
    return schema if isinstance(schema, dict) else None


def _parse(data: bytes) -> Json:
    """Return an answer or a chunk. Raises UpstreamError for an error, or what is neither."""
    decoded = refusals.parse_object(data)
    if not _fits(decoded, _ANSWER):
        raise Interrupted("The upstream sent an object that is no answer of OpenAI's.")
    return decoded


# What each field of an object must be, unless it is null or absent: of a type and, if it is an
# object or a list of such, of a shape of its own.
_Shape = Mapping[str, tuple[type, "_Shape | None"]]
_MESSAGE: _Shape = {
    "content": (str, None),
    "tool_calls": (list, {"function": (dict, None), "custom": (dict, None)}),
}
_CHOICE: _Shape = {
    "index": (int, None),
    "delta": (dict, _MESSAGE),
    "message": (dict, _MESSAGE),
    "text": (str, None),
    "logprobs": (dict, None),
    "finish_reason": (str, None),
}
_USAGE: _Shape = {
    "prompt_tokens": (int, None),
    "completion_tokens": (int, None),
    "prompt_tokens_details": (dict, None),
    "completion_tokens_details": (dict, None),
}
_ANSWER: _Shape = {
    "choices": (list, _CHOICE),
    "usage": (dict, _USAGE),
    "system_fingerprint": (str, None),
}


def _fits(value: Any, shape: _Shape) -> bool:
    """Tell whether `value` is an object of that shape; fields of no interest may be anything.

    Every token comes this way.
    """
    if type(value) is not dict:
        return False
    for name, field in value.items():
        if field is None or name not in shape:
            continue
        kind, inner = shape[name]
        if not isinstance(field, kind):
            return False
        if inner is not None:
            each = field if isinstance(field, list) else (field,)
            if not all(_fits(one, inner) for one in each):
                return False
    return True
