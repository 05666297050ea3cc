"""Pieces of text to the whole answer that they make up, and a whole answer to one chunk.

The content of a piece is `[tokens, said]`. `said` is a list of chunks, or an object: the whole
answer, where it came as one. `tokens` is how many tokens have come until then, None where the
protocol does not show them one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.base import Json
from gateway.answers import arguments_text
from gateway.tapes import Piece

_JOINED = ("content", "reasoning_content", "reasoning", "refusal")
_SAID_BY = {"function": "arguments", "custom": "input"}  # kind of call → what it is given


def chunks_of(piece: Piece) -> list[Json]:
    """Return what a piece says, as a stream says it."""
    said = piece.content[1]
    return [unfold(said)] if isinstance(said, dict) else said


def unfold(answer: Json) -> Json:
    """Return a whole answer as the one chunk of a stream."""
    choices = [_as_delta(choice, at) for at, choice in enumerate(answer.get("choices") or ())]
    return {**answer, "choices": choices}


def fold(pieces: Sequence[Piece]) -> Json:
    """Return the whole answer. What came after the finish reason of a choice is not in it."""
    answer: Json = {}
    choices: defaultdict[int, _Choice] = defaultdict(_Choice)
    for piece in pieces:
        said = piece.content[1]
        if isinstance(said, dict):
            return said
        for chunk in said:
            usage = chunk.get("usage") or answer.get("usage")
            answer |= chunk
            answer["usage"] = usage
            for choice in chunk.get("choices") or ():
                choices[choice.get("index") or 0].add(choice)
    return answer | {"choices": [choices[index].whole(index) for index in sorted(choices)]}


@dataclass(slots=True)
class _Choice:
    """One choice, as far as it came. `message` is None for a completion's."""

    text: list[str] = field(default_factory=list)
    message: _Message | None = None
    logprobs: Json | None = None
    finish_reason: str | None = None
    others: Json = field(default_factory=dict)

    def add(self, choice: Json) -> None:
        """Take in what a chunk says of it."""
        if self.finish_reason:
            return
        self.others |= choice
        self.finish_reason = choice.get("finish_reason")
        self.text.append(choice.get("text") or "")
        if logprobs := choice.get("logprobs"):
            self.logprobs = self.logprobs or {}
            _extend(self.logprobs, logprobs)
        if (delta := choice.get("delta")) is not None:
            self.message = self.message or _Message()
            self.message.add(delta)

    def whole(self, index: int) -> Json:
        """Return OpenAI's object."""
        choice = self.others | {
            "index": index,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
        }
        choice.pop("delta", None)
        if self.message is None:
            return choice | {"text": "".join(self.text)}
        return choice | {"message": self.message.whole()}


@dataclass(slots=True)
class _Message:
    """The message of a choice, as far as it came."""

    texts: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    calls: list[_Call] = field(default_factory=list)
    places: dict[Any, int] = field(default_factory=dict)  # upstream's index → place in `calls`
    others: Json = field(default_factory=dict)

    def add(self, delta: Json) -> None:
        """Take in a delta."""
        for name, value in delta.items():
            if name == "tool_calls":
                for call in value or ():
                    self._add_call(call)
            elif name in _JOINED and isinstance(value, str):
                self.texts[name].append(value)
            elif value is not None:
                self.others[name] = value

    def whole(self) -> Json:
        """Return OpenAI's object. `content` is null only where something else is said instead."""
        joined = {name: "".join(texts) for name, texts in self.texts.items()}
        said: Json = {name: text for name, text in joined.items() if text}
        if self.calls:
            said["tool_calls"] = [call.whole() for call in self.calls]
        said.setdefault("content", None if said else "")
        return {"role": "assistant"} | self.others | said

    def _add_call(self, call: Json) -> None:
        """Begin a call where its index is new, or where a known one carries another id."""
        key, given = call.get("index"), call.get("id") or None
        at = self.places.get(key)
        if at is None or given not in (None, self.calls[at].others.get("id")):
            at = self.places[key] = len(self.calls)
            self.calls.append(_Call())
        self.calls[at].add(call)


@dataclass(slots=True)
class _Call:
    """A tool call, as far as it came."""

    kind: str = "function"
    function: Json = field(default_factory=dict)
    given: list[str] = field(default_factory=list)
    others: Json = field(default_factory=dict)

    def add(self, call: Json) -> None:
        """Take in what a delta says of it."""
        if call.get("type") == "custom" or call.get("custom"):
            self.kind = "custom"
        function = call.get(self.kind) or {}
        if given := function.get(_SAID_BY[self.kind]):
            self.given.append(arguments_text(given))
        for known, told in ((self.function, function), (self.others, call)):
            known |= {name: value for name, value in told.items() if value is not None}

    def whole(self) -> Json:
        """Return OpenAI's object."""
        call = {"type": self.kind} | self.others
        call.pop("index", None)
        return call | {self.kind: self.function | {_SAID_BY[self.kind]: "".join(self.given)}}


def _extend(known: Json, told: Json) -> None:
    """Add the lists of `told` to those of `known`, key by key."""
    for name, value in told.items():
        if not isinstance(value, list):
            known.setdefault(name, value)
        elif known.get(name) is None:
            known[name] = [*value]
        else:
            known[name] += value


def _as_delta(choice: Json, at: int) -> Json:
    choice = {"index": at, **choice}
    if message := choice.pop("message", None):
        calls = message.get("tool_calls") or ()
        numbered = [{**call, "index": at} for at, call in enumerate(calls)]
        choice["delta"] = {**message, "tool_calls": numbered} if numbered else message
    return choice
