"""A client's messages, made into what chat templates expect.

OpenAI's messages differ from those that templates are written for: content comes in parts or not
at all, arguments of calls are JSON strings, roles have other names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

IMAGE = {"type": "image"}  # an image as templates know it: the picture itself goes elsewhere

_LARGE_MESSAGES = 50
_LARGE_CHARS = 1_000_000
_CHARS_PER_PART = 1000  # a part or a call takes as long as so many characters, if it is empty


class TemplateRefused(Exception):
    """A conversation cannot be said in a model's chat template: the client's 400."""

    def __init__(self, message: str, *, param: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """What one template wants of messages.

    `developer`: it knows that role. `arguments_as_text`: it joins the arguments of calls to
    text. `content_with_calls`: it reads the content beside calls, so there must be one.
    """

    developer: bool = False
    arguments_as_text: bool = False
    content_with_calls: bool = False


def plain_messages(
    messages: Sequence[Mapping[str, Any]], *, wants: Wants, images: bool = False
) -> list[Message]:
    """Return the messages with content as one string, calls as objects and templates' roles.

    With `images`, content that holds some is a list of them and of the texts between. Raises
    TemplateRefused for content that is neither, naming where it stands.
    """
    return [_plain(message, index, wants, images) for index, message in enumerate(messages)]


def count_images(messages: Iterable[Message]) -> int:
    """Return how many images plain messages hold."""
    contents = (message.get("content") for message in messages)
    return sum(content.count(IMAGE) for content in contents if isinstance(content, list))


def with_marks(messages: Iterable[Message], mark: str) -> list[Message]:
    """Return plain messages for a template that takes text only: `mark` stands for an image."""
    return [
        {**message, "content": "\n".join(part.get("text", mark) for part in message["content"])}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def with_texts(
    messages: Iterable[Message], rewrite: Callable[[list[str]], list[str]]
) -> list[Message]:
    """Return plain messages with the texts of each list of parts rewritten, all at once."""
    rewritten = []
    for message in messages:
        if isinstance(message.get("content"), list):
            parts = message["content"]
            texts = iter(rewrite([part["text"] for part in parts if "text" in part]))
            parts = [part | {"text": next(texts)} if "text" in part else part for part in parts]
            message = {**message, "content": parts}
        rewritten.append(message)
    return rewritten


def in_parts(messages: Iterable[Message]) -> list[Message]:
    """Return plain messages for a template that takes content in parts only."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def merged_messages(messages: Iterable[Message]) -> list[Message]:
    """Return plain messages for a template that knows only `user` and `assistant` in turns.

    What the system says opens the first turn of the user, results of tools are the user's,
    calls become text, and neighbours of one role are one message.
    """
    system: list[str] = []
    turns: list[Message] = []
    for message in messages:
        text = _as_text(message)
        if message["role"] in ("system", "developer"):
            system.append(text)
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{text}"
        else:
            turns.append({"role": role, "content": text})
    if not system:
        return turns
    if not turns or turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": ""})
    turns[0]["content"] = "\n\n".join(filter(None, [*system, turns[0]["content"]]))
    return turns


def is_large(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a render would take more than about a millisecond."""
    if len(messages) > _LARGE_MESSAGES:
        return True
    return sum(map(_size, messages)) > _LARGE_CHARS


def _size(message: Mapping[str, Any]) -> int:
    calls = message.get("tool_calls") or ()
    functions = (call.get("function") for call in calls)
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    texts = [content, *_values(functions, "arguments"), *_values(parts, "text")]
    size = sum(len(text) for text in texts if isinstance(text, str))
    return size + _CHARS_PER_PART * (len(parts) + len(calls))


def _values(objects: Iterable[Any], name: str) -> Iterable[Any]:
    return (found.get(name) for found in objects if isinstance(found, dict))


def _plain(message: Mapping[str, Any], index: int, wants: Wants, images: bool) -> Message:
    plain = {key: value for key, value in message.items() if value is not None}
    if plain["role"] == "developer" and not wants.developer:
        plain["role"] = "system"
    elif plain["role"] == "function":
        plain["role"] = "tool"
    refusal = plain.pop("refusal", None)
    content = plain.get("content", refusal)
    if content is not None:
        plain["content"] = _content(content, f"messages[{index}].content", images)
    if call := plain.pop("function_call", None):
        plain.setdefault("tool_calls", [{"type": "function", "function": call}])
    if not plain.get("tool_calls"):
        plain.pop("tool_calls", None)
    elif not wants.arguments_as_text:
        plain["tool_calls"] = [_with_arguments(call) for call in plain["tool_calls"]]
    if "tool_calls" not in plain or wants.content_with_calls:
        plain.setdefault("content", "")
    return plain


def _content(content: Any, where: str, images: bool) -> str | list[Message]:
    """Return a content's text, whose parts are joined by line ends; a list if there are images."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise TemplateRefused(f"{where!r} must be a string or a list of parts.", param=where)
    parts: list[Message] = []
    for at, part in enumerate(content):
        if images and isinstance(part, dict) and part.get("type") == "image_url":
            parts.append(IMAGE)
            continue
        text = _part_text(part, f"{where}[{at}]")
        if parts and "text" in parts[-1]:
            text = f"{parts.pop()['text']}\n{text}"
        parts.append({"type": "text", "text": text})
    if IMAGE in parts:
        return parts
    return parts[0]["text"] if parts else ""


def _part_text(part: Any, where: str) -> str:
    """Return the text of a part, or of a refusal. Raises TemplateRefused for any other."""
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(kind) if isinstance(kind, str) and kind in ("text", "refusal") else None
    if isinstance(text, str):
        return text
    param = f"{where}.type"
    raise TemplateRefused(
        f"{param!r} is {kind!r}: this model takes text only.",
        param=param,
        code="unsupported_content_type",
    )


def _with_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call with its arguments as an object. What cannot be read stays a string."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return dict(call)
    try:
        arguments = json.loads(function["arguments"].strip() or "{}")
    except (ValueError, RecursionError):
        return dict(call)
    if not isinstance(arguments, dict):
        return dict(call)
    return {**call, "function": {**function, "arguments": arguments}}


def _as_text(message: Message) -> str:
    """Return what a message says, its calls as the JSON objects that models write."""
    calls = [
        json.dumps(
            {"name": call["function"].get("name"), "arguments": call["function"].get("arguments")},
            ensure_ascii=False,
        )
        for call in message.get("tool_calls", ())
        if isinstance(call.get("function"), dict)
    ]
    return "\n".join(filter(None, [message.get("content", ""), *calls]))
