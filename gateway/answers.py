"""OpenAI's whole answers, for all dialects: whatever comes in, canonical objects go out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.base import Json, Task
from adapters.errors import Interrupted
from adapters.tool_calls import new_call_id

_FINISH_REASONS = frozenset(("stop", "length", "tool_calls", "content_filter", "function_call"))
_NATIVE_REASONS = {"max_tokens": "length", "model_length": "length"}
_FAILURES = frozenset(("error", "abort"))  # how vLLM, SGLang and OpenRouter say that it broke off
_OBJECTS = {
    Task.CHAT: ("chatcmpl-", "chat.completion"),
    Task.COMPLETION: ("cmpl-", "text_completion"),
}
OWN_KEYS = frozenset("id object created model system_fingerprint choices usage error event".split())
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

    Raises Interrupted for an upstream's answer without choices, or one that broke off.
    """
    choices = [choice for answer in answers for choice in answer.get("choices") or ()]
    if not choices:
        raise Interrupted("The upstream answered without choices.")
    shape = _chat_choice if head.task is Task.CHAT else text_choice
    first = answers[0]
    return _encode(
        {
            **{name: value for name, value in first.items() if name not in OWN_KEYS},
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
    reason = finish_reason_of(choice.get("finish_reason"), called=bool(calls))
    base: Json = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    return {
        **choice,
        "index": index,
        "message": {**base, **both_reasonings(message), "role": "assistant"},
        "logprobs": choice.get("logprobs"),
        "finish_reason": reason,
    }


def text_choice(choice: Json, index: int) -> Json:
    return {
        **choice,
        "index": index,
        "text": choice.get("text") or "",
        "logprobs": choice.get("logprobs"),
        "finish_reason": finish_reason_of(choice.get("finish_reason"), called=False),
    }


def _whole_call(call: Json) -> Json:
    whole = {
        **call,
        "id": str(call.get("id") or new_call_id()),
        "type": call.get("type") or "function",
    }
    if "custom" not in call:
        function = call.get("function") or {}
        whole["function"] = {
            **function,
            "name": function.get("name") or "",
            "arguments": arguments_text(function.get("arguments")),
        }
    return whole


def finish_reason_of(reason: str | None, *, called: bool) -> str:
    """Return one of OpenAI's five; tool calls always end in `tool_calls`.

    Raises Interrupted for a reason that is a failure: it must not look like an end.
    """
    if reason in _FAILURES:
        raise Interrupted("The upstream broke off its answer.")
    known = reason if reason in _FINISH_REASONS else _NATIVE_REASONS.get(reason or "", "stop")
    return "tool_calls" if called and known == "stop" else known


def both_reasonings(message: Json) -> Json:
    """Say reasoning under both names that clients read."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if not isinstance(reasoning, str):
        return message
    return {**message, "reasoning_content": reasoning, "reasoning": reasoning}


def arguments_text(arguments: Any) -> str:
    """Return a call's arguments as the JSON string that they must be."""
    return arguments if isinstance(arguments, str) else _encode(arguments or {}).decode()
