"""Tracebacks that tell where a fault is, but not what somebody had sent.

The message of an exception may repeat a value: `KeyError` a key of a request's, a validation error
a whole prompt. It is told of the kinds that speak of the machine, and of the gateway's own that
speak of its configuration and stores.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

_OF_THE_MACHINE = (
    OSError,
    ImportError,
    AttributeError,
    NameError,
    MemoryError,
    RecursionError,
)
_OWN = ("gateway.book.", "gateway.config", "gateway.embedded", "gateway.link", "gateway.store")
_MOST_FRAMES = 30
_MOST_LINKS = 8


def render(error: BaseException, *, tells_all: bool) -> str:
    """Return the traceback, that of the cause first. `tells_all`: with every message."""
    links = list(_links(error))
    return "\n".join(_render(link, tells_all=tells_all) for link in reversed(links))


def _links(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, what it came of, and so on."""
    link: BaseException | None = error
    for _ in range(_MOST_LINKS):
        if link is None:
            return
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _render(error: BaseException, *, tells_all: bool) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__, limit=-_MOST_FRAMES))
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    if isinstance(error, BaseExceptionGroup):
        inner = [_render(one, tells_all=tells_all) for one in error.exceptions[:_MOST_LINKS]]
        return "\n".join([f"{frames}{name} of", *inner])
    is_told = tells_all or isinstance(error, _OF_THE_MACHINE) or kind.__module__.startswith(_OWN)
    return f"{frames}{name}{f': {error}' if is_told else ''}"
