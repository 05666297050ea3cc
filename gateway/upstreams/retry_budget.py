"""How many requests of a model may be tried again: retries must not multiply an outage."""

from __future__ import annotations

import time
from collections.abc import Callable

_MOST = 100.0  # a server that dies takes as many requests with it
_PER_SECOND = 1.0  # so that a model which is seldom asked is given a chance too


class RetryBudget:
    """Lets a share of the requests be tried again, beyond a burst that comes back slowly."""

    def __init__(self, share: float = 0.2, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._left = _MOST if share else 0.0
        self._at = clock()

    def deposit(self) -> None:
        """Note a request."""
        self._left = min(_MOST, self._left + self._share)

    def withdraw(self) -> bool:
        """Tell whether a request may be tried again, which is counted."""
        now = self._clock()
        if self._share:
            self._left = min(_MOST, self._left + (now - self._at) * _PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
