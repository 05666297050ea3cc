"""One choice of an answer, made from generated tokens: stops cut, tool calls found.

A whole answer takes the same way as a stream, so both say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol

from adapters.base import Json, Request, Task, ToolStyle
from adapters.logprobs import TokenLogprob, chat_logprobs, completion_logprobs
from adapters.parameters import forced_tools, offered_tools, stops_of
from adapters.stops import StopCutter
from adapters.tools import SPECIAL_MARKERS, ToolParser, collect_calls


class GeneratedToken(Protocol):
    """One token as generated. A special one is no part of the text."""

    @property
    def text(self) -> str: ...
    @property
    def logprob(self) -> float | None: ...
    @property
    def special(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _WholeText:
    """A whole answer's text, taken for one token."""

    text: str
    logprob: float | None = None
    special: bool = False


class ChoiceText:
    """One choice while it grows: tokens in, OpenAI's stream choices out.

    `stopped` turns true when a stop sequence was found: what follows is not wanted.
    """

    __slots__ = (
        "_chat",
        "_cutter",
        "_echo",
        "_fed",
        "_given",
        "_index",
        "_logprobs",
        "_markers",
        "_tools",
    )

    def __init__(self, request: Request, index: int) -> None:
        self._index = index
        self._chat = request.task is Task.CHAT
        self._cutter = StopCutter(stops_of(request.body))
        self._tools = tool_parser(request)
        self._markers = SPECIAL_MARKERS[self._tools.style] if self._tools else frozenset()
        wanted = request.body.get("logprobs") not in (None, False)
        self._logprobs: list[TokenLogprob] | None = [] if wanted else None
        self._echo = _echo(request, index)
        self._fed, self._given = len(self._echo), 0

    @property
    def needs_tokens(self) -> bool:
        """Whether the text alone would not do: log probabilities, or marks of tool calls."""
        return self._logprobs is not None or bool(self._markers)

    @property
    def stopped(self) -> bool:
        """Whether the text was cut at a stop sequence."""
        return self._cutter.stopped

    def add(self, token: GeneratedToken, top: Sequence[GeneratedToken] | None = None) -> list[Json]:
        """Return the choices that `token` makes certain, none while its text is held back.

        `top`: its likeliest rivals.
        """
        text = token.text
        if token.special:
            if text not in self._markers:
                return []
        elif self._logprobs is not None:
            rivals = tuple((rival.text, rival.logprob or 0.0) for rival in top or ())
            logprob = token.logprob or 0.0
            self._logprobs.append(TokenLogprob(text, logprob, self._fed, rivals))
        self._fed += len(text)
        return self._choices(self._cutter.feed(text))

    def finish(self, reason: str) -> list[Json]:
        """Return what was held back, then the choice that carries the finish reason."""
        choices = [] if self.stopped else self._choices(self._cutter.release())
        self._given = self._given if self.stopped else self._fed + 1
        if self._tools:
            choices += [self._choice(delta) for delta in self._tools.end()]
            if self._tools.called and reason != "length":
                reason = "tool_calls"
        return [*choices, self._choice({}, finish_reason="stop" if self.stopped else reason)]

    def _choices(self, text: str) -> list[Json]:
        if self._echo:
            text, self._echo = self._echo + text, ""
        self._given += len(text)
        if not text:
            return []
        if not self._tools:
            return [self._choice({"content": text})]
        return [self._choice(delta) for delta in self._tools.feed(text)]

    def _choice(self, delta: Json, *, finish_reason: str | None = None) -> Json:
        logprobs = self._take_logprobs() if self._logprobs else None
        if self._chat:
            body = {"delta": delta, "logprobs": logprobs and chat_logprobs(logprobs)}
        else:
            body = {
                "text": delta.get("content", ""),
                "logprobs": logprobs and completion_logprobs(logprobs),
            }
        return {"index": self._index, **body, "finish_reason": finish_reason}

    def _take_logprobs(self) -> list[TokenLogprob] | None:
        """Return those of the tokens whose text has begun to be given out."""
        waiting = self._logprobs or []
        ready = [token for token in waiting if token.offset < self._given]
        self._logprobs = waiting[len(ready) :]
        return ready or None


def _echo(request: Request, index: int) -> str:
    """Return the prompt that a completion repeats before its text."""
    if not request.body.get("echo"):
        return ""
    choices: int = request.body.get("n", 1)
    return request.prompts[index // choices]


def tool_parser(request: Request) -> ToolParser | None:
    """Return a parser of the calls that the answer may hold, None when it may hold none."""
    tools = offered_tools(request.body)
    if not tools:
        return None
    style = ToolStyle.JSON if forced_tools(request.body) else request.tool_style
    if style is None:
        return None
    return ToolParser(
        style,
        tool_names=[tool["function"]["name"] for tool in tools],
        parallel=request.body.get("parallel_tool_calls", True),
    )


def whole_choice(
    request: Request,
    index: int,
    *,
    text: str,
    tokens: Sequence[GeneratedToken],
    top_tokens: Sequence[Sequence[GeneratedToken]] = (),
    finish_reason: str,
) -> Json:
    """Return the choice of a whole answer: `message` for a chat, `text` for a completion.

    `text` is the upstream's own joining of `tokens`; they and their rivals, `top_tokens`, are
    only used where it lacks something: log probabilities, or the special tokens that mark tool
    calls.
    """
    choice = ChoiceText(request, index)
    steps: list[Json] = []
    pairs = zip_longest(tokens, top_tokens[: len(tokens)])
    for token, top in pairs if tokens and choice.needs_tokens else [(_WholeText(text), None)]:
        steps += choice.add(token, top)
        if choice.stopped:
            break
    steps += choice.finish(finish_reason)
    return _joined(request, steps)


def _joined(request: Request, steps: list[Json]) -> Json:
    """Join the steps of a stream into one choice."""
    last = steps[-1]
    whole: Json = {"index": last["index"], "finish_reason": last["finish_reason"]}
    whole["logprobs"] = _joined_logprobs([step["logprobs"] for step in steps if step["logprobs"]])
    if request.task is Task.COMPLETION:
        return whole | {"text": "".join(step["text"] for step in steps)}
    deltas = [step["delta"] for step in steps]
    calls = collect_calls(deltas)
    content = "".join(delta.get("content") or "" for delta in deltas)
    message: Json = {"role": "assistant", "content": content if content or not calls else None}
    return whole | {"message": message | ({"tool_calls": calls} if calls else {})}


def _joined_logprobs(parts: list[Json]) -> Json | None:
    """Join the lists that `logprobs` objects hold, key by key."""
    if not parts:
        return None
    joined: dict[str, Any] = {}
    for key, value in parts[0].items():
        lists = isinstance(value, list)
        joined[key] = [entry for part in parts for entry in part[key]] if lists else value
    return joined
