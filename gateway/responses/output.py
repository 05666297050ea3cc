"""The output of one response, made of a chat's chunks as they come."""

from __future__ import annotations

from typing import Any

from adapters.base import Json
from gateway.responses.items import CallItem, ItemStatus, TextItem
from gateway.responses.tools import Toolbox


class Output:
    """What was said so far. `add` and `end` return the events that tell it, without numbers.

    `name`: what the ids of its items are made of.
    """

    def __init__(self, name: str, toolbox: Toolbox) -> None:
        self._name = name
        self._toolbox = toolbox
        self._items: list[TextItem | CallItem] = []
        self._text: TextItem | None = None  # the one that is open
        self._calls: dict[Any, CallItem] = {}  # all of them, by the chat's index

    def add(self, choice: Json) -> list[Json]:
        """Take in one canonical choice of a chunk."""
        delta = choice.get("delta") or {}
        events: list[Json] = []
        if reasoning := delta.get("reasoning_content"):
            events += self._say("reasoning_text", reasoning, [])
        tokens = _logprobs(choice)
        if delta.get("content") or (tokens and self._is_speaking):
            events += self._say("output_text", delta.get("content") or "", tokens)
        if refusal := delta.get("refusal"):
            events += self._say("refusal", refusal, [])
        for call in delta.get("tool_calls") or ():
            events += self._call(call)
        return events

    def end(self, status: ItemStatus) -> list[Json]:
        """Close what is open, in this status. What is complete without a word has an empty one."""
        is_silent = not self._items and status == "completed"
        events = self._say("output_text", "", []) if is_silent else []
        for item in self._items:
            if item.status == "in_progress":
                events += item.end(status)
        return events

    def items(self) -> list[Json]:
        """Return all items as far as they came."""
        return [item.told() for item in self._items]

    @property
    def _is_speaking(self) -> bool:
        return self._text is not None and not self._text.is_reasoning

    def _say(self, kind: str, text: str, logprobs: list[Json]) -> list[Json]:
        is_reasoning = kind == "reasoning_text"
        events: list[Json] = []
        if self._text is None or self._text.is_reasoning != is_reasoning:
            events += self._close_text()
            self._text = TextItem(*self._place(), is_reasoning=is_reasoning)
            events += self._begin(self._text)
        return events + self._text.say(kind, text, logprobs)

    def _call(self, call: Json) -> list[Json]:
        kind = "custom" if "custom" in call else "function"
        said = call[kind]
        events: list[Json] = []
        item = self._calls.get(call["index"])
        if item is None:
            events += self._close_text()
            named = self._toolbox.named(said["name"])
            item = CallItem(*self._place(), kind=kind, call_id=call["id"], named=named)
            self._calls[call["index"]] = item
            events += self._begin(item)
        return events + item.give(said["arguments" if kind == "function" else "input"])

    def _place(self) -> tuple[int, str]:
        """Return the index of the next item, and what its id is made of."""
        index = len(self._items)
        return index, f"{self._name}{index:02x}"

    def _begin(self, item: TextItem | CallItem) -> list[Json]:
        self._items.append(item)
        return item.begin()

    def _close_text(self) -> list[Json]:
        text, self._text = self._text, None
        return text.end("completed") if text else []


def _logprobs(choice: Json) -> list[Json]:
    """Return the log probabilities of a chat's tokens, each with the bytes that it must have."""
    tokens = (choice.get("logprobs") or {}).get("content") or ()
    return [
        _with_bytes(token) | {"top_logprobs": [*map(_with_bytes, token.get("top_logprobs") or ())]}
        for token in tokens
    ]


def _with_bytes(token: Json) -> Json:
    if token.get("bytes") is not None:
        return token
    return {**token, "bytes": list(token["token"].encode(errors="replace"))}
