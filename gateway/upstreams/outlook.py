"""When a model that is loading is expected, and when it is asked again whether it has loaded."""

from __future__ import annotations

import time
from collections.abc import Callable

_LONGEST_PAUSE_SECONDS = 5.0  # estimates are often wrong (20.0 stands for "unknown")
_SHORTEST_PAUSE_SECONDS = 0.1
_LONG_SECONDS = 60.0  # beyond the estimate: what is loading then may be loading anew


class Outlook:
    """What the upstream's estimates amount to.

    One that is told again is no news: 20.0 may be repeated for hours, and counts from the first
    time. Another than the last is believed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.estimate_seconds = 0.0
        self._clock = clock
        self._expected_at = self._heard_at = self._polled_at = clock() - _LONG_SECONDS

    @property
    def remaining_seconds(self) -> float:
        """How long it will take yet; less than 0: the estimate has run out."""
        return self._expected_at - self._clock()

    @property
    def pause_seconds(self) -> float:
        """How long the upstream is left alone yet."""
        return self._polled_at - self._clock()

    @property
    def is_due(self) -> bool:
        """Whether it should have loaded by now, and may be asked."""
        return self.remaining_seconds <= 0 and self.pause_seconds <= 0

    @property
    def retry_after_seconds(self) -> float:
        """When a client does well to come again: when it is expected, or else asked next."""
        remaining, pause = self.remaining_seconds, self.pause_seconds
        return remaining if remaining > 0 else pause if pause > 0 else self._longest_pause()

    def hear(self, estimate_seconds: float) -> None:
        """Note that the upstream has said, just now, that it is loading."""
        now = self._clock()
        is_old = now - max(self._expected_at, self._heard_at) > _LONG_SECONDS
        if is_old or estimate_seconds != self.estimate_seconds:
            self._expected_at = now + estimate_seconds
        self.estimate_seconds = estimate_seconds
        self._heard_at = now
        pause = self._longest_pause()
        if self._expected_at > now:
            pause = max(min(pause, self._expected_at - now), _SHORTEST_PAUSE_SECONDS)
        self._polled_at = now + pause

    def adopt(self, estimate_seconds: float, remaining_seconds: float) -> None:
        """Take over what another worker has heard before."""
        self.estimate_seconds = estimate_seconds
        self._expected_at = self._clock() + remaining_seconds

    def forget(self) -> None:
        """Note that the model is loaded: what is heard next is news."""
        self.estimate_seconds = 0.0
        self._expected_at = self._heard_at = self._polled_at = self._clock() - _LONG_SECONDS

    def _longest_pause(self) -> float:
        return min(max(self.estimate_seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
