"""OpenAI's streams, one encoder for all dialects: whatever comes in, canonical chunks go out.

The rules are those that the official SDKs' accumulating helpers break on when they are not kept:
role once and first, tool ids and names once, dense indexes that first appear in order, string
arguments, one finish reason, usage only when asked for, never an `error` key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from adapters.base import Json, Task
from adapters.errors import Interrupted
from adapters.tool_calls import new_call_id
from gateway.answers import (
    OWN_KEYS,
    Head,
    arguments_text,
    both_reasonings,
    finish_reason_of,
    render_usage,
    text_choice,
)
from gateway.errors import GatewayError

_PLAIN_KEYS = frozenset("index delta logprobs finish_reason".split())
_CHOICE_KEYS = frozenset("index delta message text logprobs finish_reason".split())
_DONE = b"data: [DONE]\n\n"
_SAID_BY = {"function": "arguments", "custom": "input"}  # kind of call → what it is given
_encode = msgspec.json.encode


@dataclass(slots=True)
class _ChoiceState:
    """What has been said of one choice of a stream."""

    started: bool = False
    finished: bool = False
    calls: dict[Any, int] = field(default_factory=dict)  # upstream's index → dense index
    ids: dict[int, Any] = field(default_factory=dict)  # dense index → upstream's id


class StreamEncoder:
    """One stream's frames. `choices`: how many the client is to get.

    `finish`: the finish reason of the first choice that ended.
    """

    def __init__(self, head: Head, *, choices: int, include_usage: bool) -> None:
        self.finish: str | None = None
        self._head = head
        self._chat = head.task is Task.CHAT
        self._states = [_ChoiceState() for _ in range(choices)]
        self._include_usage = include_usage
        self._prefix = b""
        self._suffix = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def encode(self, chunk: Json) -> bytes:
        """Return the frames of one chunk, possibly none.

        Raises Interrupted for a bad index, or a finish reason that is a failure.
        """
        if not self._prefix:
            self._prefix = self._opening(chunk.get("system_fingerprint"))
        more = b""
        if len(chunk) > 1:
            extras = {name: value for name, value in chunk.items() if name not in OWN_KEYS}
            more = _encode(extras)[1:-1] + b"," if extras else b""
        frames = b""
        for part in self.choices_of(chunk):
            frames += self._prefix + more + b'"choices":[' + _encode(part) + self._suffix
        return frames

    def choices_of(self, chunk: Json) -> list[Json]:
        """Return what a chunk says, in canonical choices of one chunk each.

        Raises Interrupted as `encode` does.
        """
        canonical: list[Json] = []
        for choice in chunk.get("choices") or ():
            state = self._state(choice.get("index") or 0)
            said = self._chat_frames(choice, state) if self._chat else _text_frames(choice, state)
            if state.finished and self.finish is None:
                self.finish = said[-1]["finish_reason"]
            canonical += said
        return canonical

    def end(self, usage: Json) -> bytes:
        """Return the closing frames: usage if it was asked for and is known, then `[DONE]`.

        Raises Interrupted while a choice has no finish reason: an answer that is not whole
        must not look whole.
        """
        if not all(state.finished for state in self._states):
            raise Interrupted("The upstream's stream ended before its finish reason.")
        if not (self._include_usage and usage):
            return _DONE
        tail = _encode(render_usage(usage, self._head.task))
        return self._prefix + b'"choices":[],"usage":' + tail + b"}\n\n" + _DONE

    def fail(self, error: GatewayError) -> bytes:
        """Return the event that SDKs raise."""
        return error.event()

    def _opening(self, fingerprint: str | None) -> bytes:
        fields = _encode(self._head.fields(chunk=True, fingerprint=fingerprint))
        return b"data: " + fields[:-1] + b","

    def _state(self, index: int) -> _ChoiceState:
        if not 0 <= index < len(self._states):
            raise Interrupted("The upstream sent a choice that was not asked for.")
        return self._states[index]

    def _chat_frames(self, choice: Json, state: _ChoiceState) -> list[Json]:
        delta = choice.get("delta") or {}
        if state.started and not state.finished and _is_plain(choice, delta):
            return [_chat_frame(choice, delta)]
        calls = delta.get("tool_calls")
        said = {
            name: value
            for name, value in delta.items()
            if value not in (None, "") and name not in ("role", "tool_calls")
        }
        frames = [] if state.started else self._roles(choice, null=bool(calls) and not said)
        if state.finished:
            return frames
        said = both_reasonings(said)
        if begun := [call for each in calls or () if (call := _call_delta(each, state))]:
            said["tool_calls"] = begun
        if said or choice.get("logprobs"):
            frames.append(_chat_frame({**choice, "finish_reason": None}, said))
        if reason := choice.get("finish_reason"):
            state.finished = True
            reason = finish_reason_of(reason, called=bool(state.calls))
            frames.append(_chat_frame({"index": choice.get("index"), "finish_reason": reason}, {}))
        return frames

    def _roles(self, choice: Json, *, null: bool) -> list[Json]:
        """Open this choice and those before it: indexes must first appear in order."""
        index = choice.get("index") or 0
        frames = []
        for at, state in enumerate(self._states[: index + 1]):
            if not state.started:
                state.started = True
                content = None if null and at == index else ""
                opening = {"role": "assistant", "content": content, "refusal": None}
                if content is None:
                    del opening["refusal"]
                frames.append(_chat_frame({"index": at, "finish_reason": None}, opening))
        return frames


def _is_plain(choice: Json, delta: Json) -> bool:
    """Tell whether this is a piece of text and nothing else, as nearly every chunk is."""
    return len(delta) == 1 and bool(delta.get("content")) and not choice.get("finish_reason")


def _chat_frame(choice: Json, delta: Json) -> Json:
    if choice.keys() == _PLAIN_KEYS and choice["delta"] is delta:
        return choice
    return {
        "index": choice.get("index") or 0,
        "delta": delta,
        "logprobs": choice.get("logprobs"),
        "finish_reason": choice.get("finish_reason"),
        **{name: value for name, value in choice.items() if name not in _CHOICE_KEYS},
    }


def _text_frames(choice: Json, state: _ChoiceState) -> list[Json]:
    reason = choice.get("finish_reason")
    if state.finished or not (choice.get("text") or choice.get("logprobs") or reason):
        return []
    if not reason:
        text = choice.get("text") or ""
        return [{"index": 0, "logprobs": None, **choice, "text": text, "finish_reason": None}]
    state.finished = True
    return [text_choice(choice, choice.get("index") or 0)]


def _call_delta(call: Json, state: _ChoiceState) -> Json | None:
    """Return a tool call's delta with a dense index; id, type and name only when it begins.

    A call begins where its index is new, or where a known index carries another id: some
    servers number parallel calls all 0, others send no index at all.
    """
    kind = "custom" if call.get("type") == "custom" or call.get("custom") else "function"
    said, given_as = call.get(kind) or {}, _SAID_BY[kind]
    key, given = call.get("index"), call.get("id") or None
    index = state.calls.get(key)
    known = index is not None and given in (None, state.ids[index])
    arguments = said.get(given_as)
    if known:
        continued = {given_as: arguments_text(arguments)} if arguments else {}
        return {"index": index, kind: continued} if continued else None
    index = len(state.ids)
    state.calls[key] = index
    state.ids[index] = given
    return {
        "index": index,
        "id": str(given or new_call_id()),
        "type": call.get("type") or kind,
        kind: {
            "name": said.get("name") or "",
            given_as: "" if arguments is None else arguments_text(arguments),
        },
    }
