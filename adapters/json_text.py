"""JSON objects inside a text that is still growing."""

from __future__ import annotations

import json
import re
from typing import Any

_STRUCTURE = re.compile(r'[{}\[\]"\\]')


class ObjectScanner:
    """Finds the end of one JSON object in a text that grows, reading each character once.

    `seen` counts the characters read. `broken` turns true at a bracket that closes another kind,
    which then is the first one not seen. `depth` braces were open before the text.
    """

    __slots__ = ("_escaped", "_in_string", "_open", "broken", "seen")

    def __init__(self, *, depth: int = 0) -> None:
        self._open = ["}"] * depth
        self._in_string = self._escaped = False
        self.seen = 0
        self.broken = False

    def end_in(self, text: str) -> int | None:
        """Return the index after the closing brace, None as long as it has not come."""
        while not self.broken and self.seen < len(text):
            if self._escaped:
                self._escaped = False
                self.seen += 1
                continue
            found = _STRUCTURE.search(text, self.seen)
            if not found:
                self.seen = len(text)
                break
            self._read(found[0])
            self.seen = found.start() if self.broken else found.end()
            if not self._open and not self.broken:
                return self.seen
        return None

    def _read(self, mark: str) -> None:
        if self._in_string:
            self._escaped = mark == "\\"
            self._in_string = mark != '"'
        elif mark == '"':
            self._in_string = True
        elif mark in "{[":
            self._open.append("}" if mark == "{" else "]")
        else:
            self.broken = not self._open or self._open.pop() != mark


def call_of(text: str) -> tuple[str, str] | None:
    """Return name and arguments of a call that is one JSON object, None if it is no call."""
    call = parse_object(text)
    if call is None or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str) and parse_object(arguments) is not None:
        return call["name"], arguments
    if arguments is not None and not isinstance(arguments, dict):
        return None
    return call["name"], json.dumps(arguments or {}, ensure_ascii=False)


def parse_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that `text` is, None when it is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parse_string(text: str) -> str | None:
    """Return the value of a JSON string, None when it is not one."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
