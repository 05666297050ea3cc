"""The items of one response while they are told, and the events that tell them.

Deltas of a chat come in any mixture. A message or a reasoning is closed where something else
begins. Calls stay open to the end, as servers may tell several of them in turns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from adapters.base import Json

REASONING_PREFIX = "rs_"  # of the ids of reasonings, OpenAI's too

ItemStatus = Literal["in_progress", "completed", "incomplete"]

# Kind of content → what its text is called in it, and the events that tell it.
_TEXTS = {
    "reasoning_text": ("text", "response.reasoning_text"),
    "output_text": ("text", "response.output_text"),
    "refusal": ("refusal", "response.refusal"),
}
# Kind of a chat's call → its item, the prefix of its id, what its input is called, and the events.
_CALLS = {
    "function": ("function_call", "fc", "arguments", "response.function_call_arguments"),
    "custom": ("custom_tool_call", "ctc", "input", "response.custom_tool_call_input"),
}


@dataclass(slots=True)
class _Content:
    """One part of an item's content, as far as it came."""

    kind: str
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)

    @property
    def text(self) -> Json:
        """The field that holds the text."""
        return {_TEXTS[self.kind][0]: "".join(self.texts)}

    def logprobs_field(self, tokens: list[Json]) -> Json:
        """Return what an event or a part says of `tokens`; only output has them."""
        return {"logprobs": list(tokens)} if self.kind == "output_text" else {}

    def told(self) -> Json:
        """Return OpenAI's object."""
        annotations: Json = {"annotations": []} if self.kind == "output_text" else {}
        return {"type": self.kind, **self.text, **annotations, **self.logprobs_field(self.logprobs)}


class TextItem:
    """A message or a reasoning, the item at the place `index`. Methods return their events."""

    def __init__(self, index: int, item_id: str, *, is_reasoning: bool) -> None:
        self.is_reasoning = is_reasoning
        self.status: ItemStatus = "in_progress"
        self._index = index
        kind: Json = (
            {"type": "reasoning", "summary": []}
            if is_reasoning
            else {"type": "message", "role": "assistant"}
        )
        self._item = {"id": (REASONING_PREFIX if is_reasoning else "msg_") + item_id, **kind}
        self._parts: list[_Content] = []

    def begin(self) -> list[Json]:
        """Open it."""
        return [_item_event("added", self._index, self.told())]

    def say(self, kind: str, text: str, logprobs: list[Json]) -> list[Json]:
        """Add `text`, and the log probabilities of its tokens."""
        events: list[Json] = []
        if not (self._parts and self._parts[-1].kind == kind):
            events += self._end_part()
            self._parts.append(_Content(kind))
            events.append(self._part_event("added"))
        part = self._parts[-1]
        part.texts.append(text)
        part.logprobs += logprobs
        if text or logprobs:
            said = {"delta": text, **part.logprobs_field(logprobs)}
            events.append(self._event(f"{_TEXTS[kind][1]}.delta", said))
        return events

    def end(self, status: ItemStatus) -> list[Json]:
        """Close it."""
        self.status = status
        return [*self._end_part(), _item_event("done", self._index, self.told())]

    def told(self) -> Json:
        """Return OpenAI's object, as far as it came."""
        content = [part.told() for part in self._parts]
        return {**self._item, "status": self.status, "content": content}

    def _end_part(self) -> list[Json]:
        if not self._parts:
            return []
        part = self._parts[-1]
        said = {**part.text, **part.logprobs_field(part.logprobs)}
        return [self._event(f"{_TEXTS[part.kind][1]}.done", said), self._part_event("done")]

    def _part_event(self, step: str) -> Json:
        part = self._parts[-1].told()
        return self._event(f"response.content_part.{step}", {"part": part})

    def _event(self, name: str, said: Json) -> Json:
        place = {"item_id": self._item["id"], "output_index": self._index}
        return {"type": name, **place, "content_index": len(self._parts) - 1, **said}


class CallItem:
    """A call of a tool, the item at the place `index`. Methods return their events.

    `kind` is that of a chat's call, `named` the fields by which the client knows the tool.
    """

    def __init__(self, index: int, item_id: str, *, kind: str, call_id: str, named: Json) -> None:
        self.status: ItemStatus = "in_progress"
        self._index = index
        self._kind = kind
        item_type, prefix, self._given_as, self._event_prefix = _CALLS[kind]
        self._item: Json = {"id": f"{prefix}_{item_id}", "type": item_type, "call_id": call_id}
        self._item |= named
        self._given: list[str] = []

    def begin(self) -> list[Json]:
        """Open it."""
        return [_item_event("added", self._index, self.told())]

    def give(self, text: str) -> list[Json]:
        """Add to its input."""
        self._given.append(text)
        return [self._event("delta", {"delta": text})] if text else []

    def end(self, status: ItemStatus) -> list[Json]:
        """Close it. A function that was called with nothing is given an empty object."""
        self.status = status
        is_bare = status == "completed" and self._kind == "function" and not any(self._given)
        return [
            *(self.give("{}") if is_bare else ()),
            self._event("done", self._input),
            _item_event("done", self._index, self.told()),
        ]

    def told(self) -> Json:
        """Return OpenAI's object, as far as it came."""
        return {**self._item, "status": self.status, **self._input}

    @property
    def _input(self) -> Json:
        return {self._given_as: "".join(self._given)}

    def _event(self, step: str, said: Json) -> Json:
        place = {"item_id": self._item["id"], "output_index": self._index}
        return {"type": f"{self._event_prefix}.{step}", **place, **said}


def _item_event(step: str, index: int, item: Json) -> Json:
    return {"type": f"response.output_item.{step}", "output_index": index, "item": item}
