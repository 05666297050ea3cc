"""Models that are loading: one request asks the upstream, all others wait for what it learns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from adapters.errors import ModelLoading

_LONGEST_PAUSE_SECONDS = 5.0  # estimates are often wrong (20.0 stands for "unknown")
_SHORTEST_PAUSE_SECONDS = 0.1

T = TypeVar("T")


class ColdStart:
    """One model at one upstream. `loading`: its last answer was that it is not loaded yet."""

    def __init__(self) -> None:
        self.loading = False
        self._asked = False
        self._news = asyncio.Event()

    async def when_loaded(self, attempt: Callable[[], Awaitable[T]], *, wait_seconds: float) -> T:
        """Return what `attempt` returns, tried again while it raises ModelLoading.

        While the model loads only one of the callers attempts anything; should it leave,
        another takes its place. Raises ModelLoading when `wait_seconds` are over, and at once
        when the upstream's estimate goes beyond them.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        asking = False
        try:
            while True:
                if self.loading and not asking and wait_seconds:
                    asking = await self._turn(deadline)
                try:
                    result = await attempt()
                except ModelLoading as exc:
                    self.loading = True
                    estimate = exc.retry_after_seconds or 0
                    if loop.time() + estimate > deadline:
                        raise
                    asking = asking or self._take()
                    if asking:
                        await asyncio.sleep(_pause(estimate))
                    continue
                self.loading = False
                return result
        finally:
            if asking:
                self._give_up()

    async def _turn(self, deadline: float) -> bool:
        """Wait until it is this caller's turn to ask (True), or the model is loaded (False)."""
        while self.loading:
            if self._take():
                return True
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                raise ModelLoading(
                    "The model is still loading.", status=503, retry_after_seconds=20
                ) from None
        return False

    def _take(self) -> bool:
        if self._asked:
            return False
        self._asked = True
        self._news.clear()
        return True

    def _give_up(self) -> None:
        self._asked = False
        self._news.set()


def _pause(estimated_seconds: float) -> float:
    return min(max(estimated_seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
