"""The objects of the Responses API that hold others: the response itself, its usage, its error."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adapters.base import Json, Task
from gateway.answers import Head, render_usage
from gateway.errors import GatewayError

Status = Literal["in_progress", "completed", "incomplete", "failed"]

# What a response says where its request does not: OpenAI's defaults.
_DEFAULTS: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "user": None,
}
# What is so whatever the request says: nothing is stored, nothing truncated.
_ALWAYS: Json = {
    "background": False,
    "previous_response_id": None,
    "service_tier": "default",
    "store": False,
    "truncation": "disabled",
}
# Finish reason of a chat → reason of a response that is not whole.
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class Echo:
    """What a response repeats of its request."""

    fields: Json

    @classmethod
    def of(cls, sent: Json, tools: Sequence[Json]) -> Echo:
        """Return it for a request that was checked, of whose tools these are offered."""
        text, reasoning = sent.get("text") or {}, sent.get("reasoning") or {}
        return cls(
            {name: sent.get(name, default) for name, default in _DEFAULTS.items()}
            | _ALWAYS
            | {
                "reasoning": {"effort": reasoning.get("effort"), "summary": None},
                "text": {**text, "format": text.get("format") or {"type": "text"}},
                "tools": [_echoed(tool) for tool in tools],
            }
        )


def _echoed(tool: Json) -> Json:
    """Return a tool as it came, with the fields that a function always has."""
    return {"parameters": None, "strict": None, **tool} if tool["type"] == "function" else tool


def response(
    head: Head,
    echo: Echo,
    *,
    status: Status,
    output: Sequence[Json] = (),
    **rest: Any,
) -> Json:
    """Return the response object. `rest`: what it holds by then of `usage`, `error` and others."""
    is_over = status == "completed"
    return {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": head.created,
        "status": status,
        "completed_at": int(time.time()) if is_over else None,
        "error": None,
        "incomplete_details": None,
        "model": head.model,
        "output": list(output),
        **echo.fields,
        "usage": None,
        **rest,
    }


def ending(finish: str | None) -> tuple[Literal["completed", "incomplete"], Json | None]:
    """Return the status of a response whose chat ended so, and its `incomplete_details`."""
    reason = _REASONS.get(finish or "")
    return ("incomplete", {"reason": reason}) if reason else ("completed", None)


def usage_of(usage: Json) -> Json:
    """Return a chat's usage as a response has it."""
    chat = render_usage(usage, Task.CHAT)
    cached = chat["prompt_tokens_details"].get("cached_tokens") or 0
    reasoning = chat["completion_tokens_details"].get("reasoning_tokens") or 0
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": chat["total_tokens"],
    }


def failure(error: GatewayError) -> Json:
    """Return the `error` of a failed response, whose codes are few."""
    if error.status == 429:
        code = "rate_limit_exceeded"
    else:
        code = "invalid_prompt" if error.status < 500 else "server_error"
    return {"code": code, "message": error.message}
