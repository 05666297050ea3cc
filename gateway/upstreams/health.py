"""Whether a target is fit to be asked: what its answers show, and how long it is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import SystemRandom
from typing import Literal

from adapters.errors import (
    Failed,
    Interrupted,
    Misconfigured,
    ModelMissing,
    OutOfCredits,
    Overloaded,
    TimedOut,
    Unreachable,
    UpstreamError,
)

_MOST_FAILURES = 3  # on end
_SHORTEST_REST_SECONDS = 2.0
_LONGEST_REST_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 300.0  # that an upstream may impose by `retry-after`
_FAILURES = (Unreachable, TimedOut, Interrupted, Overloaded, Failed)
_AT_ONCE = (OutOfCredits, Misconfigured)  # no use in asking again until someone acts
_DOWN = (Unreachable, TimedOut, Misconfigured, ModelMissing)

draw_between = SystemRandom().uniform


class Health:
    """One target's health.

    It rests after three failures on end, for two seconds and twice as long each time up to a
    minute, give or take a fifth. Then one request is let through: if it is answered, all are.
    `is_down`: the server's own health page says so, or does not answer.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = draw_between,
    ) -> None:
        self.reachable: bool | None = None  # None: not asked yet
        self.is_probed = False  # by a request under way
        self.is_down = False
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._rests = 0
        self._rests_until = 0.0
        self._busy_until = 0.0

    @property
    def is_resting(self) -> bool:
        """Whether it failed too often, and has not answered since."""
        return self._rests > 0

    @property
    def hindrance(self) -> Literal["busy", "resting"] | None:
        """Why no request should go there, None if one should, the one that tries it out included.

        It is busy for as long as it has asked for by `retry-after`.
        """
        now = self._clock()
        if now < self._busy_until:
            return "busy"
        if self.is_down or (self._rests and (self.is_probed or now < self._rests_until)):
            return "resting"
        return None

    @property
    def may_be_asked(self) -> bool:
        """Whether a request should go there."""
        return self.hindrance is None

    def begin(self) -> None:
        """Note that it is asked."""
        self.is_probed = self.is_resting

    def end(self) -> None:
        """Note that it is not asked any more, whatever came of it."""
        self.is_probed = False

    def succeed(self) -> None:
        """Note an answer."""
        self.reachable = True
        self.is_down = False
        if self._failures or self._rests:
            self._failures = self._rests = 0

    def fail(self, error: UpstreamError) -> None:
        """Note what came instead of an answer, or cut it short."""
        self.reachable = not isinstance(error, _DOWN)
        if isinstance(error, Overloaded) and error.retry_after_seconds:
            seconds = min(error.retry_after_seconds, _LONGEST_WAIT_SECONDS)
            self._busy_until = self._clock() + seconds
        elif isinstance(error, _AT_ONCE):
            self._rest()
        elif isinstance(error, _FAILURES) and _is_its_fault(error):
            self._failures += 1
            if self._rests or self._failures >= _MOST_FAILURES:
                self._rest()

    def hear(self, *, is_up: bool) -> None:
        """Note what the server's health page tells.

        A server that was down and is up again need not rest any longer: the next request tries
        it out. One that fails though it was up all along rests as long as it would without.
        """
        if is_up and self.is_down:
            self._rests_until = self._clock()
        if self.is_down == is_up:
            self.reachable = is_up
        self.is_down = not is_up

    def _rest(self) -> None:
        if self._clock() < self._rests_until:
            return  # one of those that were under way when the others failed
        seconds = min(_SHORTEST_REST_SECONDS * 2**self._rests, _LONGEST_REST_SECONDS)
        self._rests += 1
        self._rests_until = self._clock() + seconds * self._jitter(0.8, 1.2)


def _is_its_fault(error: UpstreamError) -> bool:
    """Tell whether another would do better: 4xx are about the request, but 424 and 429."""
    return error.status is None or error.status >= 500 or error.status in (200, 424, 429)
