"""How the styles mark tool calls in text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from adapters.base import ToolStyle

# Texts that may be single special tokens, which decoders drop: these must be let through.
SPECIAL_MARKERS: Mapping[ToolStyle, frozenset[str]] = MappingProxyType(
    {
        ToolStyle.HERMES: frozenset({"<tool_call>", "</tool_call>"}),
        ToolStyle.LLAMA: frozenset({"<|python_tag|>"}),
        ToolStyle.MISTRAL: frozenset({"[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"}),
        ToolStyle.JSON: frozenset(),
    }
)


@dataclass(frozen=True, slots=True)
class Form:
    """How one style marks its calls. `anywhere`: also after content; else at the start only."""

    opening: str = ""
    closing: str = ""
    anywhere: bool = False
    several: bool = False  # another object may follow the first without a mark of its own


FORMS: Mapping[ToolStyle, Form] = MappingProxyType(
    {
        ToolStyle.HERMES: Form("<tool_call>", "</tool_call>", anywhere=True),
        ToolStyle.LLAMA: Form("<|python_tag|>", several=True),
        ToolStyle.MISTRAL: Form("[TOOL_CALLS]", anywhere=True),
        ToolStyle.JSON: Form(),
    }
)

# A call's object up to its arguments, where it tells its name first.
HEAD = re.compile(
    r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.){0,256}")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
# `name[ARGS]{…}`, with an id between in some versions.
NAMED = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\][^\[\]\s]*)?(?:\[ARGS\])?\s*(?=\{)")
NAMED_MAX_CHARS = 400


def partial_size(text: str, mark: str) -> int:
    """Return the length of the longest end of `text` that begins `mark`."""
    sizes = range(min(len(mark) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)
