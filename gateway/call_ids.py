"""Ids for tool calls that came without one, drawn once for all who read the answer."""

from __future__ import annotations

from typing import Any

from adapters.base import Json
from adapters.tool_calls import new_call_id


class CallIds:
    """The tool calls of one stream that have begun. What it gets is changed in place."""

    def __init__(self) -> None:
        self._begun: set[tuple[int, Any]] = set()  # index of the choice, and of the call in it

    def complete(self, chunks: list[Json]) -> list[Json]:
        """Return the chunks of one read, an id in every call that begins there."""
        for chunk in chunks:
            for choice in chunk.get("choices") or ():
                delta = choice.get("delta")
                if delta and (calls := delta.get("tool_calls")):
                    self._complete(choice.get("index") or 0, calls)
        return chunks

    def _complete(self, choice: int, calls: list[Json]) -> None:
        for call in calls:
            place = choice, call.get("index")
            if place not in self._begun:
                self._begun.add(place)
                _complete(call)


def complete_whole(answer: Json) -> Json:
    """Return a whole answer, changed in place: an id in every call."""
    for choice in answer.get("choices") or ():
        for call in (choice.get("message") or {}).get("tool_calls") or ():
            _complete(call)
    return answer


def _complete(call: Json) -> None:
    call["id"] = call.get("id") or new_call_id()
