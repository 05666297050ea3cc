"""Where a cluster keeps what: the slot of a command's key, and the server of a slot.

The rules are those of Redis' cluster specification, which Valkey shares.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gateway.address import Argument, Command

SLOTS = 16_384

# Where a command's first key stands; 1 for all others. None: it has no key, any server will do.
_PLACES: dict[Argument, int | None] = {
    **dict.fromkeys(("PING", "TIME", "ECHO", "INFO", "CONFIG", "SCRIPT", "CLUSTER"), None),
    **dict.fromkeys(("XINFO", "OBJECT"), 2),
}
_PLACES |= {str(name).encode(): place for name, place in _PLACES.items()}
_OF_SCRIPTS = frozenset((b"EVALSHA", b"EVAL"))


class Range(NamedTuple):
    """The slots from `first` to `last`, and where their master listens."""

    first: int
    last: int
    host: str
    port: int


def slot_of(key: Argument) -> int:
    """Return the slot of a key: that of the part in braces, where it has one."""
    name = key if isinstance(key, bytes) else str(key).encode()
    begin = name.find(b"{") + 1
    if begin and (end := name.find(b"}", begin)) > begin:
        name = name[begin:end]
    return crc_hqx(name, 0) % SLOTS


def key_of(command: Command) -> Argument | None:
    """Return the first key of a command, None if it has none."""
    word = command[0]
    if word in _OF_SCRIPTS:
        return command[3] if int(command[2]) else None
    place = _PLACES.get(word, 1)
    return command[place] if place is not None and place < len(command) else None


def parse_ranges(reply: Sequence[Any], *, asked: str) -> Iterator[Range]:
    """Yield what CLUSTER SLOTS says. `asked` is the host that it was asked of.

    Raises ValueError and TypeError for what is no such reply.
    """
    for first, last, (host, port, *_), *_ in reply:
        # "NULL: the same endpoint it used to send this command" (CLUSTER SLOTS); a server that
        # does not know its address yet says nothing, and one without the name it is to say "?".
        if (name := (host or b"").decode() or asked) != "?":
            yield Range(int(first), int(last), name, int(port))


def parse_redirection(message: str, *, asked: str) -> tuple[int, str, int]:
    """Return slot, host and port of a MOVED or ASK, which `asked` has said. Raises ValueError."""
    _, slot, place = message.split(" ", 2)
    host, _, port = place.rpartition(":")
    if host == "?":
        raise ValueError(message)
    return int(slot), host or asked, int(port)
