"""Prompts and answers as a log line holds them: short, without media, without credentials."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from adapters.base import Json, Media
from gateway.logs.scrubbing import escape_for_json, scrub

_MARGIN = 4096  # what is scrubbed grows shorter
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-]{200,}={0,2}")


def request_excerpt(body: Json, most: int) -> str:
    """Return the first `most` characters of a request as JSON; media are told by their size."""
    text = msgspec.json.encode(_slim(body, most + _MARGIN)).decode()
    return _tidy(text, most)


def answer_excerpt(data: bytes, most: int) -> str:
    """Return the first `most` characters of the beginning of an answer."""
    text = data.decode(errors="replace")
    if "\0" in text or text.count("\ufffd") > 1:  # one may be cut off at the end
        return "<not a text>"
    return _tidy(_BASE64.sub("<base64>", text), most)


def _tidy(text: str, most: int) -> str:
    return escape_for_json(scrub(text[: most + _MARGIN])[:most])


def _slim(value: Any, most: int) -> Any:
    """Return `value` with each text and list cut to what can be seen of it."""
    match value:
        case str():
            return _slim_text(value, most)
        case dict():
            return {_slim_text(key, most): _slim(one, most) for key, one in value.items()}
        case list() | tuple():
            return [_slim(one, most) for one in value[:most]]
        case int() | float() | None:
            return value
        case Media(data=data) | (bytes() as data):
            return f"<{len(data)} bytes>"
    return f"<{type(value).__name__}>"


def _slim_text(text: str, most: int) -> str:
    part = text[:most].encode(errors="replace").decode()  # halves of surrogate pairs cannot be told
    return _BASE64.sub(lambda found: _size(text, part, found), part)


def _size(text: str, part: str, found: re.Match[str]) -> str:
    end = len(text) if found.end() == len(part) else found.end()
    return f"<{end - found.start()} characters of base64>"
