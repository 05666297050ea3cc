"""How a worker leaves: what it was told, and how long what it has begun may go on."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable

RETIRE = signal.SIGUSR1
"""What tells a worker that others serve in its place."""


class Departure:
    """The end of one worker. Nothing new begins once it was told of it, by either method.

    A worker *retires* when others serve in its place, and *drains* when the whole gateway ends.
    """

    def __init__(
        self,
        *,
        drain_seconds: float,
        retire_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_draining = False
        self._drain_seconds = drain_seconds
        self._retire_seconds = retire_seconds
        self._clock = clock
        self._ends_at = math.inf

    def drain(self) -> None:
        """Give what is under way `drain_seconds`, from the first time that this is called."""
        if not self.is_draining:
            self.is_draining = True
            self._end_within(self._drain_seconds)

    def retire(self) -> None:
        """Give what is under way `retire_seconds`, or what is left to a worker that drains."""
        self._end_within(self._retire_seconds)

    @property
    def seconds_left(self) -> float:
        """How long what is under way may still take; infinite before the end has begun."""
        return self._ends_at - self._clock()

    def _end_within(self, seconds: float) -> None:
        self._ends_at = min(self._ends_at, self._clock() + seconds)
