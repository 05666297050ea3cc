"""What a chat template can do, found by trying it once and by the marks in its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from adapters.base import ToolStyle
from gateway.conversations import Message, Wants, plain_messages

# Renders messages with tools; None stands for a refusal.
Probe = Callable[[list[Message], list[Any] | None], str | None]

_TEXT = "a probe's text"
_NAME = "probe_function"
_PARAMETERS = {"type": "object", "properties": {}}
_TOOL = {
    "type": "function",
    "function": {"name": _NAME, "description": "x", "parameters": _PARAMETERS},
}
_CALL = {
    "id": "probe0000",
    "type": "function",
    "function": {"name": _NAME, "arguments": "{}"},
}
_XML_CALLS = ("<function=", "<arg_key>", "<invoke")  # calls that hold no JSON object


def shows_tools(probe: Probe) -> bool:
    """Whether a tool changes the prompt."""
    chat = [{"role": "user", "content": _TEXT}]
    with_tool = probe(chat, [_TOOL])
    return with_tool is not None and with_tool != probe(chat, None)


def wants_of(probe: Probe, source: str) -> Wants:
    """Return what a template wants of messages.

    Calls are passed on as transformers does, if that renders. Another form must also show the
    call, which some templates drop without a word.
    """
    developer = "developer" in source and _shows_developer(probe)
    if _rendered_call(probe, Wants()) is not None:
        return Wants(developer=developer)
    others = (
        Wants(content_with_calls=True),
        Wants(arguments_as_text=True),
        Wants(arguments_as_text=True, content_with_calls=True),
    )
    shown = (wants for wants in others if _NAME in (_rendered_call(probe, wants) or ""))
    return replace(next(shown, Wants()), developer=developer)


def tool_style_of(source: str) -> ToolStyle | None:
    """Return how the model writes calls, told by the marks in its template's source."""
    if any(mark in source for mark in _XML_CALLS):
        return None
    if "[TOOL_CALLS]" in source:
        return ToolStyle.MISTRAL
    if "<tool_call>" in source:
        return ToolStyle.HERMES
    if "<|python_tag|>" in source or ('"parameters": ' in source and "ipython" in source):
        return ToolStyle.LLAMA
    return None


def _shows_developer(probe: Probe) -> bool:
    """Whether a developer's message gets through: some templates name the role to drop it."""
    chat = [{"role": "developer", "content": _TEXT}, {"role": "user", "content": "x"}]
    return _TEXT in (probe(chat, None) or "")


def _rendered_call(probe: Probe, wants: Wants) -> str | None:
    chat: list[Message] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": _CALL["id"], "content": "x"},
    ]
    return probe(plain_messages(chat, wants=wants), None)
