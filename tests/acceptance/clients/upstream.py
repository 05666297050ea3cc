"""A server for what the local models do not do: see pictures, call tools, and fail."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import cycle
from types import MappingProxyType
from typing import Any

from tests.acceptance.native.answers import generated, last, reply, streamed, token
from tests.scripted_upstream import Visit

Json = dict[str, Any]

SAID = "Paris is mild."
FORECAST: Json = {"city": "Paris", "degrees": 21}
FAILED = "Request failed during generation: CUDA error"
LOADING_SECONDS = 2.0

_WORDS = ("Paris ", "is ", "mild.")
_IMAGE = re.compile(r"!\[\]\(data:(image/\w+);base64,[^)]+\)")
_USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


class Scripted:
    """Plays the part that the model of a request is named after."""

    def __init__(self) -> None:
        self._loads = cycle([_loading(), generated("warm")])

    async def __call__(self, visit: Visit) -> None:
        """Answer one request."""
        name = visit.path.rpartition("/")[2]
        if name == "completions":
            await visit.send(_assist(visit.body))
        elif name == "writes":
            await visit.send(_written() if visit.body.get("stream") else generated(SAID))
        elif name == "sees":
            await visit.send(generated(_looked(visit.body["inputs"])))
        elif name == "loads":
            await visit.send(next(self._loads))
        else:
            await visit.send(_FAILURES[name])


def _loading() -> bytes:
    body = {"error": "Model is currently loading", "estimated_time": LOADING_SECONDS}
    return reply(body, status="503 Service Unavailable")


_FAILURES: Mapping[str, bytes] = MappingProxyType(
    {
        "never_loads": reply(
            {"error": "Model is currently loading", "estimated_time": 60.0},
            status="503 Service Unavailable",
        ),
        "is_busy": reply(
            {"error": "Model is overloaded", "error_type": "overloaded"},
            status="429 Too Many Requests",
        ),
        "refuses": reply(
            {"error": "Input validation error: too long", "error_type": "validation"},
            status="422 Unprocessable Entity",
        ),
        "fails": streamed(
            token("Paris"), json.dumps({"error": FAILED, "error_type": "generation"}).encode()
        ),
        "breaks_off": streamed(token("Paris")),
    }
)


def _written() -> bytes:
    *first, rest = _WORDS
    return streamed(*map(token, first), last(rest, SAID))


def _looked(prompt: str) -> str:
    """Return what is in a prompt, as a model that sees pictures would read it."""
    kinds = _IMAGE.findall(prompt)
    return f"{len(kinds)} {' '.join(kinds)}: {_IMAGE.sub('', prompt)}"


def _assist(body: Json) -> bytes:
    """Return OpenAI's answer: a call of the last tool, the JSON that is asked for, or a text."""
    deltas = _deltas(body)
    reason = "tool_calls" if "tool_calls" in deltas[0] else "stop"
    if body["model"].endswith("falls_silent"):
        return streamed(_chunk(deltas[0]))
    if not body.get("stream"):
        choice = {"index": 0, "message": _message(deltas), "finish_reason": reason}
        return reply({"choices": [choice], "usage": _USAGE})
    ending = json.dumps({"choices": [], "usage": _USAGE}).encode()
    return streamed(*map(_chunk, deltas), _chunk({}, reason), ending, b"[DONE]")


def _deltas(body: Json) -> list[Json]:
    if tools := body.get("tools"):
        function = {"name": tools[-1]["function"]["name"], "arguments": json.dumps(FORECAST)}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        return [{"role": "assistant", "content": None, "tool_calls": [call]}]
    asked = body.get("response_format", {}).get("type", "text")
    words = _WORDS if asked == "text" else (json.dumps(FORECAST),)
    return [{"role": "assistant", "content": word} for word in words]


def _message(deltas: list[Json]) -> Json:
    """Return the message that the deltas add up to."""
    content = "".join(delta["content"] or "" for delta in deltas)
    return deltas[-1] | {"content": content or None}


def _chunk(delta: Json, reason: str | None = None) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}).encode()
