"""What a client says about the cache: `cache-control`, `x-use-cache` and `if-none-match`.

Sources: RFC 9111 §5.2 (directives), RFC 9110 §13.1.2 (`If-None-Match`), §5.6 (lists, quoting).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ANY = "*"
MOST_AGE_SECONDS = 2**31  # RFC 9111 §1.2.2: what is longer counts as this
_NEVER = frozenset({"0", "false"})

# A quoted value may hold commas. One without an end takes all that follows.
_MEMBER = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*(?:"|\\?$))+', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ENTITY_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\U0010ffff]*")')


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """How an exchange may use the cache.

    `bypass`: neither read nor written; `is_forwarded`: nor is it at the upstream. `reads`: a kept
    answer is good enough, if it is at most `max_age_seconds` old. `only_if_cached`: nothing else
    is. `if_none_match`: the entity tags that the client has, quoted and without `W/`; or ANY.
    """

    bypass: bool = False
    reads: bool = True
    only_if_cached: bool = False
    max_age_seconds: int | None = None
    if_none_match: tuple[str, ...] = ()
    is_forwarded: bool = False

    @staticmethod
    def parse(cache_control: str, use_cache: str, if_none_match: str) -> Directives:
        """Return what the three headers say, each empty where there is none.

        Several lines of one header are joined by commas. What is not understood is ignored, as
        RFC 9111 §5.2.3 wants it; a `max-age` that is no number lets no answer be fresh (§4.2.1).
        """
        if not (cache_control or use_cache or if_none_match):
            return NO_DIRECTIVES
        said = _parse_directives(cache_control)
        forwarded = use_cache.strip().lower() in _NEVER
        return Directives(
            bypass=forwarded or "no-store" in said,
            reads="no-cache" not in said,
            only_if_cached="only-if-cached" in said,
            max_age_seconds=_parse_seconds(said["max-age"]) if "max-age" in said else None,
            if_none_match=_parse_tags(if_none_match),
            is_forwarded=forwarded,
        )

    def matches(self, etag: str) -> bool:
        """Tell whether the client has the answer with this entity tag (RFC 9110 §8.8.3.2: weak)."""
        return etag.removeprefix("W/") in self.if_none_match or ANY in self.if_none_match


NO_DIRECTIVES = Directives()


def _parse_directives(text: str) -> dict[str, str]:
    """Return the directives' values by their names in lower case."""
    found: dict[str, str] = {}
    for member in _MEMBER.findall(text):
        name, _, value = member.partition("=")
        value = value.strip()
        if value.startswith('"'):
            value = _ESCAPED.sub(r"\1", value[1:].removesuffix('"'))
        # "either the first occurrence should be used or the response should be considered stale"
        # (RFC 9111 §4.2.1)
        found.setdefault(name.strip().lower(), value)
    return found


def _parse_seconds(text: str) -> int:
    # Python refuses to read thousands of digits.
    if not (text.isascii() and text.isdecimal()):
        return 0
    digits = text.lstrip("0") or "0"
    return MOST_AGE_SECONDS if len(digits) > 10 else min(int(digits), MOST_AGE_SECONDS)


def _parse_tags(text: str) -> tuple[str, ...]:
    if text.strip() == ANY:
        return (ANY,)
    return tuple(_ENTITY_TAG.findall(text))
