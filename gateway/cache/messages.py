"""What workers tell each other about answers under way, as MessagePack arrays.

One worker has an answer made; others follow it, each over a *line*: a name that the follower has
made up for this one time, so that what comes late from an earlier try cannot be mistaken.
Names, of lines as well as of locks, begin with the worker that made them: `<worker id>:<number>`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from adapters import errors as upstream
from adapters.errors import Interrupted, UpstreamError
from gateway import errors
from gateway.errors import GatewayError


class Message(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """Anything that is sent from worker to worker."""


class Join(Message, frozen=True):
    """To the holder of a lock: send me what it makes, from the piece `first` on.

    Answered with Pieces or Gone.
    """

    key: str
    token: str
    line: str
    first: int


class Leave(Message, frozen=True):
    """To the leader: nobody wants any more of it here."""

    line: str


class Pieces(Message, frozen=True):
    """Pieces from the `first` on, or so much of their encoding from `offset` on.

    `is_cut`: more of the same encoding follows.
    """

    line: str
    first: int
    offset: int
    is_cut: bool
    data: bytes


class Beat(Message, frozen=True):
    """Still at it. `token` is the leader's, who is told if nobody is on the line."""

    line: str
    token: str


class Pay(Message, frozen=True):
    """The answer is on your account from now on: those before you have left."""

    line: str


class Gone(Message, frozen=True):
    """It is not made here, or not any more: look for yourself."""

    line: str


class Trouble(msgspec.Struct, array_like=True, frozen=True):
    """An UpstreamError or a GatewayError on its way."""

    name: str
    message: str
    fields: dict[str, str | int | float | None]


class Failed(Message, frozen=True):
    """What cut it short. It is everyone's error."""

    line: str
    error: Trouble


Told = Pieces | Beat | Pay | Gone | Failed
"""What a leader says on a line."""

encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Join | Leave | Told] = msgspec.msgpack.Decoder(
    Join | Leave | Told
)

_FIELDS = ("status", "type", "retry_after_seconds", "param", "code")
_KINDS = {
    name: kind
    for module in (upstream, errors)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, UpstreamError | GatewayError)
}


def parse(data: bytes) -> Join | Leave | Told:
    """Read a message. Raises ValueError for what is none."""
    return _decoder.decode(data)


def worker_of(name: str) -> str:
    """Return the worker that made the name of a lock or a line."""
    return name.partition(":")[0]


def pack_error(error: BaseException) -> Trouble:
    """Return the error as it is sent. What is of another kind is sent as Interrupted."""
    name = type(error).__name__
    if not isinstance(error, UpstreamError | GatewayError) or name not in _KINDS:
        return Trouble("Interrupted", "The answer broke off.", {})
    fields = {field: getattr(error, field, None) for field in _FIELDS}
    return Trouble(name, error.message, {k: v for k, v in fields.items() if v is not None})


def unpack_error(trouble: Trouble) -> UpstreamError | GatewayError:
    """Return the error that was sent; Interrupted for one that is not known here."""
    kind: type[Any] = _KINDS.get(trouble.name, Interrupted)
    fields = {k: v for k, v in trouble.fields.items() if k in _FIELDS}
    try:
        error = kind(trouble.message, **fields)
    except TypeError:  # a field that this release's error does not have
        error = Interrupted(trouble.message)
    assert isinstance(error, UpstreamError | GatewayError)  # noqa: S101 (see `_KINDS`)
    return error
