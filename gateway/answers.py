"""OpenAI's answers, one encoder for all dialects: whatever comes in, canonical objects go out.

The rules are those that the official SDKs' accumulating helpers break on when they are not kept:
role once and first, tool ids and names once, dense indexes that first appear in order, string
arguments, one finish reason, usage only when asked for, never an `error` key.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from adapters.base import Json, Task
from adapters.errors import Interrupted

_FINISH_REASONS = frozenset(("stop", "length", "tool_calls", "content_filter", "function_call"))
_NATIVE_REASONS = {"max_tokens": "length", "model_length": "length"}
_OBJECTS = {
    Task.CHAT: ("chatcmpl-", "chat.completion"),
    Task.COMPLETION: ("cmpl-", "text_completion"),
}
_OWN_KEYS = frozenset(
    "id object created model system_fingerprint choices usage error event".split()
)
_PLAIN_KEYS = frozenset("index delta logprobs finish_reason".split())
_CHOICE_KEYS = frozenset("index delta message text logprobs finish_reason".split())
_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What all objects of one answer share. `model` is the name that the client used."""

    task: Task
    id: str
    created: int
    model: str
    fingerprint: str

    def fields(self, *, chunk: bool, fingerprint: str | None = None) -> Json:
        """Return the leading keys of an answer or a chunk."""
        prefix, kind = _OBJECTS[self.task]
        return {
            "id": prefix + self.id,
            "object": f"{kind}.chunk" if chunk and self.task is Task.CHAT else kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint or self.fingerprint,
        }


def render_usage(usage: Json, task: Task) -> Json:
    """Return `usage` with its total and, for chats, with the details that clients look for."""
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if task is not Task.CHAT:
        return {**usage, **counts}
    return {
        **usage,
        **counts,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0}
        | (usage.get("prompt_tokens_details") or {}),
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        }
        | (usage.get("completion_tokens_details") or {}),
    }


def render_answer(head: Head, answers: Sequence[Json], usage: Json) -> bytes:
    """Return the body of a whole answer, joined from those of its calls.

    Raises Interrupted for an upstream's answer without choices.
    """
    choices = [choice for answer in answers for choice in answer.get("choices") or ()]
    if not choices:
        raise Interrupted("The upstream answered without choices.")
    shape = _chat_choice if head.task is Task.CHAT else _text_choice
    first = answers[0]
    return _encode(
        {
            **{name: value for name, value in first.items() if name not in _OWN_KEYS},
            **head.fields(chunk=False, fingerprint=first.get("system_fingerprint")),
            "choices": [shape(choice, index) for index, choice in enumerate(choices)],
            "usage": render_usage(usage, head.task) if usage else None,
        }
    )


def _chat_choice(choice: Json, index: int) -> Json:
    message = {
        name: value for name, value in (choice.get("message") or {}).items() if value is not None
    }
    calls = message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = [_whole_call(call) for call in calls]
    reason = _finish_reason(choice.get("finish_reason"), called=bool(calls))
    base: Json = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    return {
        **choice,
        "index": index,
        "message": {**base, **_both_reasonings(message), "role": "assistant"},
        "logprobs": choice.get("logprobs"),
        "finish_reason": reason,
    }


def _text_choice(choice: Json, index: int) -> Json:
    return {
        **choice,
        "index": index,
        "text": choice.get("text") or "",
        "logprobs": choice.get("logprobs"),
        "finish_reason": _finish_reason(choice.get("finish_reason"), called=False),
    }


def _whole_call(call: Json) -> Json:
    whole = {
        **call,
        "id": str(call.get("id") or _call_id()),
        "type": call.get("type") or "function",
    }
    if "custom" not in call:
        function = call.get("function") or {}
        whole["function"] = {
            **function,
            "name": function.get("name") or "",
            "arguments": _arguments(function.get("arguments")),
        }
    return whole


@dataclass(slots=True)
class _ChoiceState:
    """What has been said of one choice of a stream."""

    started: bool = False
    finished: bool = False
    calls: dict[Any, int] = field(default_factory=dict)  # upstream's index → dense index
    ids: dict[int, Any] = field(default_factory=dict)  # dense index → upstream's id


class StreamEncoder:
    """One stream's frames. `choices`: how many the client is to get."""

    def __init__(self, head: Head, *, choices: int, include_usage: bool) -> None:
        self._head = head
        self._chat = head.task is Task.CHAT
        self._states = [_ChoiceState() for _ in range(choices)]
        self._include_usage = include_usage
        self._prefix = b""
        self._suffix = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def encode(self, chunk: Json) -> bytes:
        """Return the frames of one chunk, possibly none. Raises Interrupted for a bad index."""
        if not self._prefix:
            self._prefix = self._opening(chunk.get("system_fingerprint"))
        more = b""
        if len(chunk) > 1:
            extras = {name: value for name, value in chunk.items() if name not in _OWN_KEYS}
            more = _encode(extras)[1:-1] + b"," if extras else b""
        frames = b""
        for choice in chunk.get("choices") or ():
            state = self._state(choice.get("index") or 0)
            said = self._chat_frames(choice, state) if self._chat else _text_frames(choice, state)
            for part in said:
                frames += self._prefix + more + b'"choices":[' + _encode(part) + self._suffix
        return frames

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
        said = _both_reasonings(said)
        if begun := [call for each in calls or () if (call := _call_delta(each, state))]:
            said["tool_calls"] = begun
        if said or choice.get("logprobs"):
            frames.append(_chat_frame({**choice, "finish_reason": None}, said))
        if reason := choice.get("finish_reason"):
            state.finished = True
            reason = _finish_reason(reason, called=bool(state.calls))
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
    return [_text_choice(choice, choice.get("index") or 0)]


def _call_delta(call: Json, state: _ChoiceState) -> Json | None:
    """Return a tool call's delta with a dense index; id, type and name only when it begins.

    A call begins where its index is new, or where a known index carries another id: some
    servers number parallel calls all 0, others send no index at all.
    """
    function = dict(call.get("function") or {})
    key, given = call.get("index"), call.get("id") or None
    index = state.calls.get(key)
    known = index is not None and given in (None, state.ids[index])
    arguments = function.get("arguments")
    if known:
        continued = {"arguments": _arguments(arguments)} if arguments else {}
        return {"index": index, "function": continued} if continued else None
    index = len(state.ids)
    state.calls[key] = index
    state.ids[index] = given
    return {
        "index": index,
        "id": str(given or _call_id()),
        "type": call.get("type") or "function",
        "function": {
            "name": function.get("name") or "",
            "arguments": "" if arguments is None else _arguments(arguments),
        },
    }


def _finish_reason(reason: str | None, *, called: bool) -> str:
    """Return one of OpenAI's five; tool calls always end in `tool_calls`."""
    known = reason if reason in _FINISH_REASONS else _NATIVE_REASONS.get(reason or "", "stop")
    return "tool_calls" if called and known == "stop" else known


def _both_reasonings(message: Json) -> Json:
    """Say reasoning under both names that clients read."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if not isinstance(reasoning, str):
        return message
    return {**message, "reasoning_content": reasoning, "reasoning": reasoning}


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else _encode(arguments or {}).decode()


def _call_id() -> str:
    return "call_" + secrets.token_hex(12)
