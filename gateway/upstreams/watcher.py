"""Who is told of calls to upstreams: metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from adapters.errors import ModelLoading, UpstreamError

if TYPE_CHECKING:
    from gateway.upstreams.target import Target

OK = "ok"
LEFT = "left"  # the client did, or another call of the same request has failed

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class Watcher(Protocol):
    """Who is told. Nothing here may raise, or take long."""

    def called(self, target: Target, outcome: str) -> None:
        """Hear what came of a call: `ok`, `left`, or its error, by type."""

    def waited_for_loading(self, target: Target, seconds: float) -> None:
        """Hear for how long a call waited for its model to be loaded, in vain or not."""


class Nobody:
    """Is told nothing."""

    def called(self, target: Target, outcome: str) -> None:
        """Do nothing."""

    def waited_for_loading(self, target: Target, seconds: float) -> None:
        """Do nothing."""


NOBODY = Nobody()


@contextmanager
def watched(target: Target, *, success: str | None = OK) -> Iterator[None]:
    """Tell the target's watcher what came of the block; None: its success is told elsewhere."""
    outcome: str | None = LEFT
    try:
        yield
        outcome = success
    except UpstreamError as error:
        outcome = outcome_of(error)
        raise
    finally:
        if outcome:
            target.upstream.watcher.called(target, outcome)


def outcome_of(error: UpstreamError) -> str:
    """Return the name of what an upstream did wrong: `timed_out` for a TimedOut."""
    if isinstance(error, ModelLoading):
        return "loading"
    return _CAPITAL.sub("_", type(error).__name__).lower()
