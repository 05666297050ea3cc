"""Models that are loading: one request asks the upstream, all others wait for what it learns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from adapters.errors import ModelLoading

_LONGEST_PAUSE_SECONDS = 5.0  # estimates are often wrong (20.0 stands for "unknown")
_SHORTEST_PAUSE_SECONDS = 0.1
_VERDICT_SECONDS = 2.0  # a server that is still loading says so at once

T = TypeVar("T")


class ColdStart:
    """One model at one upstream. `loading`: its last answer was that it is not loaded yet."""

    def __init__(self) -> None:
        self.loading = False
        self._estimated_seconds = 0.0
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
                    result = await (self._ask(attempt) if asking else attempt())
                except ModelLoading as exc:
                    self.loading = True
                    self._estimated_seconds = exc.retry_after_seconds or 0
                    if loop.time() + self._estimated_seconds > deadline:
                        raise
                    asking = asking or self._take()
                    if asking:
                        await asyncio.sleep(self._pause_seconds())
                else:
                    self.loading = False
                    return result
        finally:
            if asking:
                self._asked = False
                self._news.set()

    async def _ask(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Attempt for all. An answer that takes its time is being made: the others may come."""
        verdict = asyncio.get_running_loop().call_later(_VERDICT_SECONDS, self._presume_loaded)
        try:
            return await attempt()
        finally:
            verdict.cancel()

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
                    "The model is still loading.",
                    status=503,
                    retry_after_seconds=self._estimated_seconds,
                ) from None
        return False

    def _take(self) -> bool:
        if self._asked:
            return False
        self._asked = True
        self._news.clear()
        return True

    def _presume_loaded(self) -> None:
        self.loading = False
        self._news.set()

    def _pause_seconds(self) -> float:
        return min(max(self._estimated_seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
