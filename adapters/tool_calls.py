"""Tool calls in OpenAI's form: whole, and as the deltas of a stream."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable

from adapters.base import Json

_BASE62 = string.digits + string.ascii_letters


def new_call_id() -> str:
    """Return a fresh id of a call, in the form OpenAI's have."""
    return "call_" + "".join(secrets.choice(_BASE62) for _ in range(24))


def opening_delta(index: int, *, call_id: str, name: str) -> Json:
    """Return the delta that opens a call."""
    function = {"name": name, "arguments": ""}
    call = {"index": index, "id": call_id, "type": "function", "function": function}
    return {"tool_calls": [call]}


def arguments_delta(index: int, arguments: str) -> Json:
    """Return the delta that adds a piece to a call's arguments."""
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


def collect_calls(deltas: Iterable[Json]) -> list[Json]:
    """Return the `tool_calls` of a message from the deltas of its stream."""
    calls: dict[int, Json] = {}
    for delta in deltas:
        for part in delta.get("tool_calls", ()):
            if "id" in part:
                calls[part["index"]] = {
                    "id": part["id"],
                    "type": part["type"],
                    "function": dict(part["function"]),
                }
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return [calls[index] for index in sorted(calls)]
