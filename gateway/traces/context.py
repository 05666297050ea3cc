"""The W3C's trace context: the headers by which one trace goes on from server to server.

Source: https://www.w3.org/TR/trace-context-2/, §3.2 (`traceparent`) and §3.3 (`tracestate`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

Headers = tuple[tuple[str, str], ...]

SAMPLED = 0x01
_KNOWN_FLAGS = 0x03  # sampled, and: the trace's id is random
_MOST_MEMBERS = 32
_LONGEST_STATE = 512  # of which all are passed on
_LONG_MEMBER = 128  # such are left out first

_PARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.DOTALL,
)
_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_is_member = re.compile(f"{_KEY}={_VALUE}").fullmatch


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where a request stands in its trace; ids are lower-case hexadecimal numbers."""

    trace_id: str
    span_id: str
    flags: int
    state: str = ""

    @property
    def is_sampled(self) -> bool:
        """Whether the caller may have recorded its part of the trace."""
        return bool(self.flags & SAMPLED)

    def headers(self) -> Headers:
        """Return the headers that say so."""
        parent = ("traceparent", f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}")
        return (parent, ("tracestate", self.state)) if self.state else (parent,)


def parse(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext | None:
    """Return what a request's headers say, None if nothing or nothing valid.

    Of a version to come the fields are read that it shares with this one.
    """
    parents, states = [], []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value.decode("latin-1"))
        elif name == b"tracestate":
            states.append(value.decode("latin-1"))
    if len(parents) != 1 or (found := _PARENT.fullmatch(parents[0].strip(" \t"))) is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "00" and more is not None:
        return None
    return TraceContext(trace_id, span_id, int(flags, 16) & _KNOWN_FLAGS, _parse_state(states))


def _parse_state(values: Iterable[str]) -> str:
    """Return the members of all the headers as one, nothing if any of them is not valid."""
    members = [member.strip(" \t") for value in values for member in value.split(",")]
    members = [member for member in members if member]
    keys = {member.partition("=")[0] for member in members}
    is_valid = len(members) <= _MOST_MEMBERS and len(keys) == len(members)
    return _joined(members) if is_valid and all(map(_is_member, members)) else ""


def _joined(members: list[str]) -> str:
    """Return as many members as §3.3.1.5 asks to be passed on, the first ones."""
    if len(",".join(members)) > _LONGEST_STATE:
        members = [member for member in members if len(member) <= _LONG_MEMBER]
    while len(",".join(members)) > _LONGEST_STATE:
        members.pop()
    return ",".join(members)
