"""The tools of a Responses request as a chat has them.

Functions are flat here and nested there. A namespace is a group of tools, which a chat does not
know: its tools go by `{namespace}__{name}`, and calls of them get their own names back.

Tools that OpenAI runs itself cannot be run here. Most of them hold what the answer is to be made
of, and are refused. Those of `_DISPENSABLE` only widen what the model may do, and agents add them
to their own functions unasked (Codex 0.169 sends eight functions and `web_search`), so beside
functions they are left out by name. Alone they are what the client came for: refused too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Required

from pydantic import Discriminator, Field, Tag

from adapters.base import Json
from gateway.errors import BadRequest
from gateway.requests import Items, OpenObject

_DISPENSABLE = frozenset(
    "web_search web_search_2025_08_26 web_search_preview web_search_preview_2025_03_11 "
    "image_generation tool_search".split()
)

# Two of them and what is between are as long as a chat's name may be.
ToolName = Annotated[str, Field(min_length=1, max_length=127)]


class FlatFunction(OpenObject, total=False):
    type: Required[Literal["function"]]
    name: Required[ToolName]
    description: str | None
    parameters: Json | None
    strict: bool | None


class CustomFormat(OpenObject, total=False):
    type: Required[Literal["text", "grammar"]]
    syntax: Literal["lark", "regex"]
    definition: str


class FlatCustom(OpenObject, total=False):
    type: Required[Literal["custom"]]
    name: Required[ToolName]
    description: str | None
    format: CustomFormat | None


FlatTool = Annotated[FlatFunction | FlatCustom, Field(discriminator="type")]


class Namespace(OpenObject, total=False):
    type: Required[Literal["namespace"]]
    name: Required[ToolName]
    description: str
    tools: Required[Items[FlatTool]]


class HostedTool(OpenObject, total=False):
    """One that OpenAI runs."""

    type: Required[str]


_OURS = ("function", "custom", "namespace")


def _kind(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    # No key of a tool must be spelt like a tag: see `gateway.errors.from_validation`.
    return f"a {kind}" if kind in _OURS else "of OpenAI"


GivenTool = Annotated[
    Annotated[FlatFunction, Tag("a function")]
    | Annotated[FlatCustom, Tag("a custom")]
    | Annotated[Namespace, Tag("a namespace")]
    | Annotated[HostedTool, Tag("of OpenAI")],
    Discriminator(_kind),
]


class NamedToolChoice(OpenObject, total=False):
    type: Required[Literal["function", "custom"]]
    name: Required[str]
    namespace: str | None


class AllowedByName(OpenObject, total=False):
    """A tool by its name; one that OpenAI runs has none."""

    type: Required[str]
    name: str
    namespace: str | None


class AllowedToolsChoice(OpenObject, total=False):
    type: Required[Literal["allowed_tools"]]
    mode: Required[Literal["auto", "required"]]
    tools: Required[Items[AllowedByName]]


GivenChoice = (
    Literal["none", "auto", "required"]
    | Annotated[NamedToolChoice | AllowedToolsChoice, Field(discriminator="type")]
)


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of one request. `offered`: as a chat has them. `given`: as they came.

    `origins`: a chat's name of a tool in a namespace → its own fields `name` and `namespace`.
    `unheard`: the names of those that were left out.
    """

    offered: Sequence[Json] = ()
    given: Sequence[Json] = ()
    origins: Mapping[str, Json] | None = None
    unheard: tuple[str, ...] = ()

    def named(self, name: str) -> Json:
        """Return the fields that name a called tool as the client knows it."""
        return (self.origins or {}).get(name) or {"name": name}


def chat_name(tool: Json) -> str:
    """Return the name that a chat knows a tool by, of what has a `name` and maybe `namespace`."""
    name, namespace = tool.get("name") or "", tool.get("namespace")
    return f"{namespace}__{name}" if namespace else name


def open_toolbox(tools: Sequence[Json]) -> Toolbox:
    """Return what can be offered. Raises BadRequest for what cannot and must not be left out."""
    flat: list[Json] = []
    given: list[Json] = []
    unheard: list[str] = []
    has_own = any(tool["type"] in _OURS for tool in tools)
    for at, tool in enumerate(tools):
        kind = tool["type"]
        if kind in _OURS:
            given.append(tool)
            flat += _in_namespace(tool) if kind == "namespace" else [tool]
        elif has_own and kind in _DISPENSABLE:
            unheard.append(f"tools.{kind}")
        else:
            raise _cannot_run(kind, at)
    origins = {
        chat_name(tool): {"name": tool["name"], "namespace": tool["namespace"]}
        for tool in flat
        if tool.get("namespace")
    }
    return Toolbox([_chat_tool(tool) for tool in flat], given, origins, tuple(unheard))


def chat_choice(choice: str | Json) -> str | Json:
    """Return `tool_choice` as a chat has it."""
    if isinstance(choice, str):
        return choice
    if choice["type"] != "allowed_tools":
        return _named(choice)
    allowed = [_named(tool) for tool in choice["tools"] if tool["type"] in _NESTED]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": allowed}}


_NESTED = frozenset(("function", "custom"))
_FUNCTION_FIELDS = ("description", "parameters", "strict")


def _in_namespace(group: Json) -> list[Json]:
    return [{**tool, "namespace": group["name"]} for tool in group["tools"]]


def _named(tool: Json) -> Json:
    kind = tool["type"]
    return {"type": kind, kind: {"name": chat_name(tool)}}


def _chat_tool(tool: Json) -> Json:
    said: Json = {"name": chat_name(tool)}
    if tool["type"] == "function":
        said |= {name: tool[name] for name in _FUNCTION_FIELDS if tool.get(name) is not None}
        return {"type": "function", "function": said}
    if tool.get("description") is not None:
        said["description"] = tool["description"]
    if form := tool.get("format"):
        said["format"] = _chat_format(form)
    return {"type": "custom", "custom": said}


def _chat_format(form: Json) -> Json:
    if form["type"] == "text":
        return {"type": "text"}
    grammar = {name: form[name] for name in ("syntax", "definition") if name in form}
    return {"type": "grammar", "grammar": grammar}


def _cannot_run(kind: str, at: int) -> BadRequest:
    param = f"tools[{at}].type"
    return BadRequest(
        f"{param!r} is {kind[:64]!r}: this gateway runs no tools itself. Offer a 'function', and "
        "run it when it is called.",
        code="unsupported_parameter",
        param=param,
    )
