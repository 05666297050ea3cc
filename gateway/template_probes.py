"""What a chat template can do, found by trying it once and by the marks in its source."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from typing import Any

from adapters.base import ToolStyle
from gateway.conversations import IMAGE, Message, Wants, in_parts, plain_messages

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
_ATOM = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]+\]|.", re.DOTALL)  # a whole token, or a character
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


def wants_parts(probe: Probe) -> bool:
    """Whether a template shows text that comes in parts, and none that comes as one string."""
    chat: list[Message] = [{"role": "user", "content": _TEXT}]
    return _TEXT not in (probe(chat, None) or "") and _TEXT in (probe(in_parts(chat), None) or "")


def image_mark_of(probe: Probe) -> str | None:
    """Return what a template writes for an image, None if it shows none.

    It is what one image more adds to the prompt, without the space around. The marks of its
    beginning and end belong to it: a server writes these anew (TGI, `image_text_replacement`).
    """
    prompts = [probe([_pictured(images)], None) for images in range(3)]
    without, one, two = ("" if prompt is None else prompt for prompt in prompts)
    atoms, more = _ATOM.findall(one), _ATOM.findall(two)
    # In whole tokens, as neighbours may begin alike: `<|end|><|image|>` twice.
    same = (one_atom == other for one_atom, other in zip(atoms, more, strict=False))
    start = len(list(takewhile(bool, same)))
    added = more[start : start + len(more) - len(atoms)]
    mark = "".join(added).strip()
    is_token = any(len(atom) > 1 for atom in added) and "type" not in mark  # or the list itself
    if not is_token or _TEXT not in one:
        return None
    return mark if [text.count(mark) for text in (without, one, two)] == [0, 1, 2] else None


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


def _pictured(images: int) -> Message:
    texts = [{"type": "text", "text": text} for text in (_TEXT, "x")]
    return {"role": "user", "content": [texts[0], *[IMAGE] * images, texts[1]]}


def _rendered_call(probe: Probe, wants: Wants) -> str | None:
    chat: list[Message] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": _CALL["id"], "content": "x"},
    ]
    return probe(plain_messages(chat, wants=wants), None)
