"""How often the Hub is asked about models that nobody here has asked for yet."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_MOST_BY_ONE = 20.0  # at once, and again within a minute
_MOST_BY_ALL = 100.0
_MOST_CALLERS = 1000  # remembered
_MINUTE_SECONDS = 60.0


@dataclass(slots=True)
class _Bucket:
    """Fills up within a minute."""

    size: float
    left: float
    at: float

    def fill(self, now: float) -> None:
        self.left = min(self.size, self.left + (now - self.at) * self.size / _MINUTE_SECONDS)
        self.at = now

    @property
    def wait_seconds(self) -> float:
        """How long until there is one more."""
        return max(0.0, 1 - self.left) * _MINUTE_SECONDS / self.size


class Trips:
    """Lets each caller have so many a minute, and all of them together a few times as many.

    So neither does one who invents names use up what the Hub allows the gateway's account, nor
    keep the others from asking.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = _Bucket(_MOST_BY_ALL, _MOST_BY_ALL, clock())
        self._callers: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, caller: str) -> float:
        """Take one for `caller`; return 0, or how many seconds it has to wait: then none is taken.

        The seconds are for the caller, and no promise: others may be quicker.
        """
        now = self._clock()
        buckets = (self._bucket(caller, now), self._all)
        for bucket in buckets:
            bucket.fill(now)
        wait_seconds = max(bucket.wait_seconds for bucket in buckets)
        if not wait_seconds:
            for bucket in buckets:
                bucket.left -= 1
        return wait_seconds

    def _bucket(self, caller: str, now: float) -> _Bucket:
        bucket = self._callers.get(caller)
        if bucket is None:
            if len(self._callers) >= _MOST_CALLERS:
                self._callers.popitem(last=False)
            bucket = self._callers[caller] = _Bucket(_MOST_BY_ONE, _MOST_BY_ONE, now)
        self._callers.move_to_end(caller)
        return bucket
