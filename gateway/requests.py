"""OpenAI's request bodies: what is accepted, checked where it enters.

Bodies stay plain dicts (pydantic only checks them), so fields that are unknown here reach the
upstreams that know them. Source: the types of the official Python SDK, 3.54.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticKnownError, from_json
from typing_extensions import TypedDict

from adapters.base import Json
from gateway.errors import BadRequest, from_validation

_LENIENT = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
_LONGEST_LIST = 100_000
_MOST_BIASES = 1024

T = TypeVar("T")
# The first wrong item is all that is reported. Collecting the errors of a list's items costs
# 20 µs each, and the event loop stands still meanwhile.
Items = Annotated[list[T], Field(fail_fast=True)]

Temperature = Annotated[float, Field(ge=0, le=2)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Tokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)]
Choices = Annotated[int, Field(ge=1, le=128)]
Stop = str | Annotated[Items[str], Field(max_length=64)]


def _refuse_many(biases: Any) -> Any:
    """Look at the length first, for the reason given at `Items`."""
    if isinstance(biases, dict) and len(biases) > _MOST_BIASES:
        context = {"field_type": "Dictionary", "max_length": _MOST_BIASES}
        raise PydanticKnownError("too_long", {**context, "actual_length": len(biases)})
    return biases


Biases = Annotated[dict[str, float], BeforeValidator(_refuse_many)]


class OpenObject(TypedDict, total=False):
    """An object of OpenAI's that may hold more fields than are known here."""

    __pydantic_config__ = _LENIENT  # type: ignore[misc]


class TextPart(OpenObject, total=False):
    type: Required[Literal["text"]]
    text: Required[str]


class RefusalPart(OpenObject, total=False):
    type: Required[Literal["refusal"]]
    refusal: Required[str]


class ImageUrl(OpenObject, total=False):
    url: Required[str]
    detail: str | None


class ImagePart(OpenObject, total=False):
    type: Required[Literal["image_url"]]
    image_url: Required[ImageUrl]


class AudioPart(OpenObject, total=False):
    type: Required[Literal["input_audio"]]
    input_audio: Required[Json]


class FilePart(OpenObject, total=False):
    type: Required[Literal["file"]]
    file: Required[Json]


Part = Annotated[
    TextPart | RefusalPart | ImagePart | AudioPart | FilePart, Field(discriminator="type")
]
Content = str | Items[Part]


class CalledFunction(OpenObject, total=False):
    name: Required[str]
    arguments: Required[str]


class ToolCall(OpenObject, total=False):
    id: Required[str]
    type: Required[Literal["function", "custom"]]
    function: CalledFunction
    custom: Json


class InstructionMessage(OpenObject, total=False):
    role: Required[Literal["developer", "system"]]
    content: Required[Content | None]


class UserMessage(OpenObject, total=False):
    role: Required[Literal["user"]]
    content: Required[Content | None]


class AssistantMessage(OpenObject, total=False):
    role: Required[Literal["assistant"]]
    content: Content | None
    tool_calls: Items[ToolCall] | None
    refusal: str | None


class ToolMessage(OpenObject, total=False):
    role: Required[Literal["tool"]]
    content: Required[Content | None]
    tool_call_id: Required[str]


class FunctionMessage(OpenObject, total=False):
    role: Required[Literal["function"]]
    name: Required[str]
    content: Required[str | None]


Message = Annotated[
    InstructionMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


class Function(OpenObject, total=False):
    name: Required[Annotated[str, Field(min_length=1, max_length=256)]]
    description: str | None
    parameters: Json | None
    strict: bool | None


class FunctionTool(OpenObject, total=False):
    type: Required[Literal["function"]]
    function: Required[Function]


class CustomTool(OpenObject, total=False):
    type: Required[Literal["custom"]]
    custom: Required[Json]


Tool = Annotated[FunctionTool | CustomTool, Field(discriminator="type")]


class NamedFunction(OpenObject, total=False):
    name: Required[str]


class NamedChoice(OpenObject, total=False):
    type: Required[Literal["function"]]
    function: Required[NamedFunction]


class CustomChoice(OpenObject, total=False):
    type: Required[Literal["custom"]]
    custom: Required[NamedFunction]


class AllowedTool(OpenObject, total=False):
    function: NamedFunction


class AllowedTools(OpenObject, total=False):
    mode: Required[Literal["auto", "required"]]
    tools: Required[Items[AllowedTool]]


class AllowedChoice(OpenObject, total=False):
    type: Required[Literal["allowed_tools"]]
    allowed_tools: Required[AllowedTools]


ToolChoice = (
    Literal["none", "auto", "required"]
    | Annotated[NamedChoice | CustomChoice | AllowedChoice, Field(discriminator="type")]
)


class JsonSchema(OpenObject, total=False):
    name: Required[str]
    schema: Json | None
    strict: bool | None


class ResponseFormat(OpenObject, total=False):
    type: Required[Literal["text", "json_object", "json_schema", "json"]]  # "json" is TGI's
    json_schema: JsonSchema | None


class StreamOptions(OpenObject, total=False):
    include_usage: bool | None


class Sampling(OpenObject, total=False):
    """How tokens are drawn, and how many."""

    temperature: Temperature | None
    top_p: Probability | None
    frequency_penalty: Penalty | None
    presence_penalty: Penalty | None
    stop: Stop | None
    seed: Seed | None
    logit_bias: Biases | None
    # Not OpenAI's, but what most servers behind it take.
    top_k: Annotated[int, Field(ge=1, le=2**31 - 1)] | None
    typical_p: Annotated[float, Field(gt=0, lt=1)] | None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None
    truncate: Tokens | None


class _TextRequest(Sampling, total=False):
    model: Required[str]
    stream: bool | None
    stream_options: StreamOptions | None
    n: Choices | None
    user: str | None
    # Of one of the two routes only with OpenAI, of both with many servers.
    best_of: Annotated[int, Field(ge=0, le=20)] | None
    max_completion_tokens: Tokens | None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None
    tools: Annotated[Items[Tool], Field(max_length=1024)] | None
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    response_format: ResponseFormat | None


class ChatRequest(_TextRequest, total=False):
    """`POST /v1/chat/completions`."""

    messages: Required[Annotated[Items[Message], Field(min_length=1, max_length=_LONGEST_LIST)]]
    max_tokens: Tokens | None
    logprobs: bool | None
    chat_template_kwargs: Json | None


Prompt = (
    str
    | Annotated[Items[str], Field(min_length=1, max_length=2048)]
    | Annotated[Items[int], Field(min_length=1, max_length=2**20)]
    | Annotated[Items[Items[int]], Field(min_length=1, max_length=2048)]
)


class CompletionRequest(_TextRequest, total=False):
    """`POST /v1/completions`."""

    prompt: Prompt | None
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None
    echo: bool | None
    suffix: str | None


CHAT: TypeAdapter[Any] = TypeAdapter(ChatRequest)
COMPLETION: TypeAdapter[Any] = TypeAdapter(CompletionRequest)


def parse_body(adapter: TypeAdapter[Any], data: bytes) -> Json:
    """Return the request's fields, without those that are null: null means absent.

    Raises BadRequest naming the first parameter that is wrong, as OpenAI spells it
    (`messages[0].content`).
    """
    # In two steps: `validate_json` would let NaN through wherever any value may stand.
    return check_body(adapter, decode_body(data))


def decode_body(data: bytes) -> Any:
    """Return the value that was sent. Raises BadRequest for what is no JSON."""
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:
        raise BadRequest(
            "We could not parse the JSON body of your request.", code="invalid_json"
        ) from None


def check_body(adapter: TypeAdapter[Any], sent: Any) -> Json:
    """Return the fields of what was sent. See `parse_body`."""
    try:
        body: Json = adapter.validate_python(sent)
    except ValidationError as exc:
        raise from_validation(exc.errors(include_url=False), sent) from None
    return {name: value for name, value in body.items() if value is not None}
