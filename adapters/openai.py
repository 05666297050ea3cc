"""Servers that already speak OpenAI: vLLM, SGLang, llama.cpp, the Hub's router.

The client's body goes on as it came, unknown fields included; what comes back is normalised by
the gateway's encoder, so here it is only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from adapters import refusals
from adapters.base import Call, Decoder, Json, Plan, Request, Task
from adapters.errors import Interrupted, UpstreamError
from adapters.sse import EventParser

_PATHS = {Task.CHAT: "/chat/completions", Task.COMPLETION: "/completions"}


class OpenAIText:
    """Base URLs end in `/v1` or what stands for it."""

    renders = False

    def plan(self, request: Request) -> Plan:
        """Return the one call. A stream is always asked for its usage: it has to be metered."""
        body = request.body | {"model": request.model}
        if request.stream:
            options = body.get("stream_options") or {}
            body |= {"stream": True, "stream_options": options | {"include_usage": True}}
        else:
            body.pop("stream_options", None)
        return Plan((Call(path=_PATHS[request.task], body=msgspec.json.encode(body)),))

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return the upstream's object. Raises UpstreamError for an error under status 200."""
        return _parse(body)

    def decoder(self, request: Request, call: Call) -> Decoder:
        """Return a fresh decoder of one stream."""
        return StreamDecoder()


class StreamDecoder:
    """One stream of chunk objects. It is whole once a finish reason or `[DONE]` was seen."""

    __slots__ = ("_events", "_finished", "done", "ended", "failure")

    tokens = None  # a chunk may hold any number

    def __init__(self) -> None:
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
            try:
                chunk = _parse(payload)
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
