"""`POST /v1/responses`: what is accepted of it, and the chat that it asks for.

The stateless part of the Responses API: nothing is stored, so what points to something stored is
refused. Source: the types of the official Python SDK, 3.54.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Required

from pydantic import Field, TypeAdapter

from adapters.base import Json
from gateway.errors import BadRequest
from gateway.requests import (
    ChatRequest,
    Items,
    OpenObject,
    Sampling,
    Tokens,
    check_body,
    decode_body,
)
from gateway.responses.form import ResponsesForm
from gateway.responses.history import Item, messages_of
from gateway.responses.objects import Echo
from gateway.responses.tools import GivenChoice, GivenTool, Toolbox, chat_choice, open_toolbox

_LOGPROBS = "message.output_text.logprobs"


class TextFormat(OpenObject, total=False):
    type: Required[Literal["text", "json_object"]]


class SchemaFormat(OpenObject, total=False):
    type: Required[Literal["json_schema"]]
    name: Required[str]
    schema: Required[Json]
    strict: bool | None
    description: str | None


class TextOptions(OpenObject, total=False):
    format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None
    verbosity: Literal["low", "medium", "high"] | None


class ReasoningOptions(OpenObject, total=False):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None


class ResponsesRequest(Sampling, total=False):
    """`POST /v1/responses`."""

    model: Required[str]
    input: str | Annotated[Items[Item], Field(min_length=1, max_length=100_000)] | None
    instructions: str | None
    stream: bool | None
    stream_options: Json | None
    max_output_tokens: Tokens | None
    max_tool_calls: int | None
    tools: Annotated[Items[GivenTool], Field(max_length=1024)] | None
    tool_choice: GivenChoice | None
    parallel_tool_calls: bool | None
    text: TextOptions | None
    reasoning: ReasoningOptions | None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None
    include: Items[str] | None
    metadata: dict[str, str] | None
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    store: bool | None
    truncation: Literal["auto", "disabled"] | None
    background: bool | None
    # Not OpenAI's.
    chat_template_kwargs: Json | None


RESPONSES: TypeAdapter[Any] = TypeAdapter(ResponsesRequest)

# What takes a server that keeps something → what to do instead.
_STATEFUL = {
    "previous_response_id": "Send the whole conversation as 'input'.",
    "conversation": "Send the whole conversation as 'input'.",
    "prompt": "Send the prompt's text as 'instructions' and 'input'.",
    "background": "Wait for the answer, or read it as it comes with 'stream'.",
}
_SAID_OTHERWISE = frozenset(
    "input instructions tools tool_choice parallel_tool_calls text reasoning include "
    "max_output_tokens top_logprobs stream_options".split()
)
# Records, or of no effect where nothing is stored and no tool is run. `client_metadata` is Codex's.
_WITHOUT_EFFECT = frozenset("background max_tool_calls truncation store client_metadata".split())
_NOT_HERE = frozenset(
    "access_programs background_options context_management image moderation".split()
)
# By these a chat is asked for what the fields above say, or for several choices.
_OF_CHATS = frozenset(ChatRequest.__annotations__) - frozenset(ResponsesRequest.__annotations__)
_GONE = frozenset().union(_SAID_OTHERWISE, _WITHOUT_EFFECT, _NOT_HERE, _OF_CHATS, _STATEFUL)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `body`: the chat's. `form`: how its answer is told.

    `unheard`: the names of what was left out, and that the client may miss.
    """

    body: Json
    form: ResponsesForm
    unheard: tuple[str, ...]


def parse_responses(data: bytes) -> Asked:
    """Return what is asked for. Raises BadRequest."""
    return read_responses(decode_body(data))


def read_responses(given: Any) -> Asked:
    """Return what a body asks for that is decoded already. Raises BadRequest."""
    sent = check_body(RESPONSES, given)
    for name, instead in _STATEFUL.items():
        if sent.get(name):
            raise _refused(name, f"is not supported: this gateway stores nothing. {instead}")
    toolbox = open_toolbox(sent.get("tools") or ())
    body = {name: value for name, value in sent.items() if name not in _GONE}
    body["messages"] = _messages(sent)
    body |= _tools(sent, toolbox) | _text(sent) | _tokens(sent)
    form = ResponsesForm(Echo.of(sent, toolbox.given), toolbox)
    return Asked(body, form, (*toolbox.unheard, *_unheard(sent)))


def _messages(sent: Json) -> list[Json]:
    if "input" not in sent:
        raise BadRequest(
            "Missing required parameter: 'input'.", code="missing_required_parameter", param="input"
        )
    messages = messages_of(sent["input"])
    if not messages:
        raise BadRequest("'input' holds no message.", code="invalid_value", param="input")
    if instructions := sent.get("instructions"):
        messages.insert(0, {"role": "system", "content": instructions})
    return messages


def _tools(sent: Json, toolbox: Toolbox) -> Json:
    """Return a chat's fields about tools, which servers refuse where there are no tools."""
    choice = sent.get("tool_choice")
    if not toolbox.offered:
        return {} if choice in (None, "auto", "none") else {"tool_choice": chat_choice(choice)}
    fields: Json = {"tools": list(toolbox.offered)}
    if choice is not None:
        fields["tool_choice"] = chat_choice(choice)
    if "parallel_tool_calls" in sent:
        fields["parallel_tool_calls"] = sent["parallel_tool_calls"]
    return fields


def _text(sent: Json) -> Json:
    """Return a chat's fields about what the text is to be like."""
    fields: Json = {}
    text, reasoning = sent.get("text") or {}, sent.get("reasoning") or {}
    if form := _response_format(text.get("format") or {"type": "text"}):
        fields["response_format"] = form
    if (verbosity := text.get("verbosity")) is not None:
        fields["verbosity"] = verbosity
    if (effort := reasoning.get("effort")) is not None:
        fields["reasoning_effort"] = effort
    return fields


def _response_format(form: Json) -> Json | None:
    if form["type"] == "text":
        return None
    if form["type"] == "json_object":
        return {"type": "json_object"}
    schema = {name: value for name, value in form.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}


def _tokens(sent: Json) -> Json:
    """Return a chat's fields about how many tokens there may be, and what is told of them."""
    fields: Json = {}
    if limit := sent.get("max_output_tokens"):
        fields["max_tokens"] = limit  # the name that every server knows
    top = sent.get("top_logprobs")
    if top or _LOGPROBS in sent.get("include", ()):
        fields |= {"logprobs": True} | ({"top_logprobs": top} if top else {})
    return fields


def _unheard(sent: Json) -> Iterator[str]:
    yield from (f"include.{name}" for name in sent.get("include", ()) if name != _LOGPROBS)
    reasoning = sent.get("reasoning") or {}
    yield from (
        f"reasoning.{name}"
        for name, value in reasoning.items()
        if name != "effort" and value is not None
    )
    if sent.get("truncation") == "auto":
        yield "truncation"
    if sent.get("store"):
        yield "store"
    yield from (name for name in sent if name in _NOT_HERE or name in _OF_CHATS)


def _refused(name: str, why: str) -> BadRequest:
    return BadRequest(f"{name!r} {why}", code="unsupported_parameter", param=name)
