"""A circuit breaker: after a few failures in a short time nobody waits any more, and one asks."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable


class Breaker:
    """Opens at so many `failures` within `window_seconds`, closes when `probe` finds all well.

    While it `is_open`, `probe` is called `pause_seconds` after the last answer, by a task that
    `aclose` ends. It must not raise. `on_change` is told whether the breaker is closed now.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[bool]],
        *,
        on_change: Callable[[bool], None],
        failures: int = 3,
        window_seconds: float = 1.0,
        pause_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_open = False
        self._probe = probe
        self._on_change = on_change
        self._window_seconds = window_seconds
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._failed_at: deque[float] = deque(maxlen=failures)
        self._probing: asyncio.Task[None] | None = None

    def fail(self, count: int = 1) -> None:
        """Note `count` failures."""
        limit = self._failed_at.maxlen or 0
        now = self._clock()
        self._failed_at.extend([now] * min(count, limit))
        is_full = len(self._failed_at) == limit
        if is_full and not self.is_open and now - self._failed_at[0] <= self._window_seconds:
            self.is_open = True
            self._probing = asyncio.get_running_loop().create_task(self._probe_until_well())
            self._on_change(False)

    async def aclose(self) -> None:
        """End the probing. A breaker that is open stays open."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])

    async def _probe_until_well(self) -> None:
        while True:
            await asyncio.sleep(self._pause_seconds)
            if await self._probe():
                break
        self._failed_at.clear()
        self.is_open = False
        self._on_change(True)
