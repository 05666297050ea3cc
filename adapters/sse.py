"""Server-sent events: bytes in, the data of each event out. Pure.

WHATWG HTML §9.2.6 "Interpreting an event stream". Only `data` matters to the upstreams spoken
to here; `event`, `id`, `retry` and comment lines are read and dropped.
"""

from __future__ import annotations

from adapters.errors import Interrupted

_MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventParser:
    """One stream's state. Feed it whatever the network gives, in any pieces."""

    __slots__ = ("_carriage_return", "_held")

    def __init__(self) -> None:
        self._held = bytearray()
        self._carriage_return = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of every event that `data` completes, in order.

        Raises Interrupted when one event outgrows 16 MiB.
        """
        if self._carriage_return or b"\r" in data:
            data = self._unify_line_ends(data)
        if not self._held:
            end = data.rfind(b"\n\n")
        else:
            searched = len(self._held) - 1
            self._held += data
            end = self._held.rfind(b"\n\n", searched)
            data = b"" if end < 0 else bytes(self._held)
        if end < 0:
            self._hold(data)
            return []
        self._held = bytearray(data[end + 2 :])
        return _payloads(data[:end])

    def end(self) -> list[bytes]:
        """Return the data of a last event that lacks its blank line: some servers omit it."""
        rest, self._held = bytes(self._held), bytearray()
        return _payloads(rest)

    def _hold(self, rest: bytes) -> None:
        self._held += rest
        if len(self._held) > _MAX_EVENT_BYTES:
            raise Interrupted("The upstream sent an event that is too long to read.")

    def _unify_line_ends(self, data: bytes) -> bytes:
        """Turn CRLF and CR into LF. A CR at the very end may be half of a CRLF, so it waits."""
        data = b"\r" + data if self._carriage_return else data
        self._carriage_return = data.endswith(b"\r")
        whole = data[:-1] if self._carriage_return else data
        return whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _payloads(text: bytes) -> list[bytes]:
    blocks = text.split(b"\n\n")
    return [payload for block in blocks if (payload := _data_of(block)) is not None]


def _data_of(block: bytes) -> bytes | None:
    if block.startswith(b"data:") and b"\n" not in block:  # what nearly every event looks like
        return _value(block)
    lines = [line for line in block.split(b"\n") if line.startswith(b"data:") or line == b"data"]
    return b"\n".join(map(_value, lines)) if lines else None


def _value(line: bytes) -> bytes:
    value = line[5:]
    return value[1:] if value.startswith(b" ") else value  # exactly one space is optional
