"""What a Responses request says so far: items, made into a chat's messages.

message                                  | a message of its role
function_call, custom_tool_call          | `tool_calls` of the assistant's message before it
function_call_output, …_tool_call_output | a message of the tool
reasoning                                | `reasoning_content` of the assistant's next message:
                                         | the text as this gateway told it. Summaries and what
                                         | is encrypted are OpenAI's to read
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Required

from pydantic import BeforeValidator, Field

from adapters.base import Json
from gateway.errors import BadRequest
from gateway.requests import Items, OpenObject
from gateway.responses.items import REASONING_PREFIX
from gateway.responses.tools import chat_name


class SaidText(OpenObject, total=False):
    type: Required[Literal["input_text", "output_text"]]
    text: Required[str]


class SaidRefusal(OpenObject, total=False):
    type: Required[Literal["refusal"]]
    refusal: Required[str]


class SaidImage(OpenObject, total=False):
    type: Required[Literal["input_image"]]
    image_url: str | None
    detail: str | None


class SaidFile(OpenObject, total=False):
    type: Required[Literal["input_file"]]
    file_data: str | None
    filename: str | None


class SaidSound(OpenObject, total=False):
    type: Required[Literal["input_audio"]]
    input_audio: Required[Json]


SaidPart = Annotated[
    SaidText | SaidRefusal | SaidImage | SaidFile | SaidSound, Field(discriminator="type")
]
Said = str | Items[SaidPart]


class MessageItem(OpenObject, total=False):
    type: Required[Literal["message"]]
    role: Required[Literal["user", "assistant", "system", "developer"]]
    content: Required[Said]


class FunctionCallItem(OpenObject, total=False):
    type: Required[Literal["function_call"]]
    call_id: Required[str]
    name: Required[str]
    namespace: str | None
    arguments: Required[str]


class CustomCallItem(OpenObject, total=False):
    type: Required[Literal["custom_tool_call"]]
    call_id: Required[str]
    name: Required[str]
    namespace: str | None
    input: Required[str]


class CallOutputItem(OpenObject, total=False):
    type: Required[Literal["function_call_output", "custom_tool_call_output"]]
    call_id: Required[str]
    output: Required[Said]


class ReasoningText(OpenObject, total=False):
    type: Required[Literal["reasoning_text", "text"]]
    text: Required[str]


class ReasoningItem(OpenObject, total=False):
    type: Required[Literal["reasoning"]]
    content: Items[ReasoningText] | None


class StoredItem(OpenObject, total=False):
    type: Required[Literal["item_reference"]]
    id: Required[str]


def _typed(item: Any) -> Any:
    """A message may come without its type."""
    if isinstance(item, dict) and item.get("type") is None:
        return {**item, "type": "message"}
    return item


Item = Annotated[
    Annotated[
        MessageItem
        | FunctionCallItem
        | CustomCallItem
        | CallOutputItem
        | ReasoningItem
        | StoredItem,
        Field(discriminator="type"),
    ],
    BeforeValidator(_typed),
]


def messages_of(items: str | Sequence[Json]) -> list[Json]:
    """Return the messages. Raises BadRequest for what stands elsewhere, where nothing is kept."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[Json] = []
    reasoning = ""
    for at, item in enumerate(items):
        if item["type"] == "reasoning":
            reasoning += "".join(part["text"] for part in item.get("content") or ())
            continue
        if item["type"] == "item_reference" and item["id"].startswith(REASONING_PREFIX):
            continue
        _add(messages, item, f"input[{at}]")
        if reasoning and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("reasoning_content", reasoning)
        reasoning = ""
    return messages


def _add(messages: list[Json], item: Json, where: str) -> None:
    match item["type"]:
        case "message":
            content = _content(item["content"], f"{where}.content")
            messages.append({"role": item["role"], "content": content})
        case "function_call" | "custom_tool_call":
            if not (messages and messages[-1]["role"] == "assistant"):
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(_call(item))
        case "item_reference":
            raise _not_stored(where, "Send the item itself, as SDKs do if 'store' is false.")
        case _:
            content = _content(item["output"], f"{where}.output")
            told = {"role": "tool", "tool_call_id": item["call_id"], "content": content}
            messages.append(told)


def _call(item: Json) -> Json:
    kind, given = (
        ("function", {"arguments": item["arguments"]})
        if item["type"] == "function_call"
        else ("custom", {"input": item["input"]})
    )
    return {"id": item["call_id"], "type": kind, kind: {"name": chat_name(item), **given}}


def _content(said: str | Sequence[Json], where: str) -> str | list[Json]:
    """Return a chat's content; one text is a string, as clients of chats write it."""
    if isinstance(said, str):
        return said
    parts = [_part(part, f"{where}[{at}]") for at, part in enumerate(said)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return parts


def _part(part: Json, where: str) -> Json:
    match part["type"]:
        case "input_text" | "output_text":
            return {"type": "text", "text": part["text"]}
        case "refusal":
            return {"type": "refusal", "refusal": part["refusal"]}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case "input_image":
            if (url := part.get("image_url")) is None:
                raise _not_stored(where, "Send the image as 'image_url', which may be a data URL.")
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": url, **detail}}
        case _:
            if (data := part.get("file_data")) is None:
                raise _not_stored(where, "Send the file's content as 'file_data'.")
            name = {"filename": part["filename"]} if part.get("filename") else {}
            return {"type": "file", "file": {"file_data": data, **name}}


def _not_stored(where: str, instead: str) -> BadRequest:
    return BadRequest(
        f"{where!r} points to what is kept elsewhere, and this gateway stores nothing. {instead}",
        code="unsupported_parameter",
        param=where,
    )
