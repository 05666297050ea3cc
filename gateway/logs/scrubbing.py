"""Takes out of a text what no log may hold: credentials, by their shape, and control characters."""

from __future__ import annotations

import re
from collections.abc import Sequence

_KEY_ID = r"sk-dm_[A-Za-z0-9]{8}"  # an API key's public part, which names it in logs
_LONG = r"[A-Za-z0-9_\-]"

# What is kept of each is its first group.
_SHAPES: Sequence[str] = (
    rf"({_KEY_ID})[A-Za-z0-9]+",
    r"(sk-dm-admin_)[A-Za-z0-9]+",
    rf"\b(sk-)(?!dm){_LONG}{{8,}}",  # OpenAI and those who imitate it, Anthropic
    rf"\b(hf_|r8_|gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|ya29\.|AIza){_LONG}{{12,}}",
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    r"\b(eyJ)[\w\-]{8,}\.[\w\-]+(?:\.[\w\-]+)?",  # RFC 7519: a JWT
    r"\b([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}:)[0-9a-f]{16,}",  # fal: id and secret
    r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(?s:.)*?(?=-----END|\Z)",
    r"((?i:authorization)[\\\"']*\s*[:=,]\s*b?[\\\"']*)(?:(?i:bearer|basic|key|token)\s+)?"
    r"[^\s\"',;}\])]+",
    r"\b((?i:bearer|basic)\s+)[^\s\"',;}\])…]{6,}",
    r"\b([A-Za-z][A-Za-z0-9+.\-]*://[^\s/:@\"'<>]*:)[^\s/\"'<>]*(?=@)",  # RFC 3986 §3.2.1
    r"((?i:[?&;](?:x-(?:amz|goog)-)?(?:key|sig|signature|credential|security-token|code))=)"
    r"[^\s&\"'#;]+",
    r"((?i:\b[\w\-]*(?:api[_\-]?key|access[_\-]?token|auth[_\-]?token|refresh[_\-]?token|password"
    r"|passwd|secret(?:[_\-]access[_\-]key|[_\-]key)?))[\\\"']*\s*[=:]\s*[\\\"']*)[^\s&\"',;}\])]+",
    r"\b((?i:token)=)[^\s&\"'#;,]+",
)
_is_name = re.compile(r"[A-Za-z0-9_.\-]{1,64}").fullmatch
_SECRET = re.compile("|".join(_SHAPES))

# C0, DEL, C1, and what some take for the end of a line or turns its direction.
_CONTROL = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x2028,
        0x2029,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_BEYOND_ASCII = {code: text for code, text in _CONTROL.items() if code > 0x7E}


def scrub(text: str) -> str:
    """Return `text` with `…` for all that looks like a credential."""
    return _SECRET.sub(_cut, text)


def name_or_other(text: str | None) -> str | None:
    """Return a code or a reason; upstreams may have their own, or a whole sentence: `other`."""
    return text if text is None or _is_name(text) else "other"


def escape(text: str) -> str:
    """Return `text` as a part of one line, whatever shows it."""
    return text.translate(_CONTROL)


def escape_for_json(text: str) -> str:
    """Return `text` without the control characters that JSON lets pass as they are."""
    return text if text.isascii() else text.translate(_BEYOND_ASCII)


def _cut(match: re.Match[str]) -> str:
    return f"{match[match.lastindex or 0]}…"
