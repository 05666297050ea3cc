"""A stream of server-sent events as a test wants to look at it."""

from __future__ import annotations

import json
from typing import Any

DONE = "[DONE]"
Json = dict[str, Any]


def events_of(body: bytes | str) -> list[Any]:
    """Return the data of each event, `[DONE]` as it is. Every event must be one `data` line."""
    text = body.decode() if isinstance(body, bytes) else body
    assert text.endswith("\n\n"), "the last event lacks its blank line"
    frames = text.removesuffix("\n\n").split("\n\n")
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames), text
    payloads = [frame.removeprefix("data: ") for frame in frames]
    return [payload if payload == DONE else json.loads(payload) for payload in payloads]


def choices_of(events: list[Any]) -> list[Json]:
    """Return the choices of all chunks, in order."""
    return [choice for event in events if event != DONE for choice in event.get("choices", ())]


def text_of(events: list[Any]) -> str:
    """Return the text of all chunks, of chats or completions."""
    return "".join(
        choice.get("text") or choice.get("delta", {}).get("content") or ""
        for choice in choices_of(events)
    )


def chat(model: str, **fields: Any) -> Json:
    """Return the body of a small chat."""
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
