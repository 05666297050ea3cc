"""How long tests wait, on machines that may be slow and busy with other things."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

PATIENCE_SECONDS = 60  # only what hangs takes so long
LONGEST_TEST_SECONDS = 3 * PATIENCE_SECONDS
_STEP_SECONDS = 0.005
_LONGEST_STEP_SECONDS = 0.02

Test = Callable[..., Awaitable[None]]


def bounded(test: Test, seconds: float | None = LONGEST_TEST_SECONDS) -> Test:
    """Return the test, which fails if it hangs, or leaves its task counted as cancelled.

    A fixture cannot do that: anyio's plugin runs all tests and fixtures in one task, and whoever
    cancels that outside of a test ends it for those to come.
    """

    @functools.wraps(test)
    async def run(**fixtures: object) -> None:
        async with asyncio.timeout(seconds):
            await test(**fixtures)
        task = asyncio.current_task()
        assert task is not None
        left = task.cancelling()
        for _ in range(left):
            task.uncancel()
        assert not left, "cancelled, and nobody has called uncancel()"

    return run


class Stopwatch:
    """Measures what a block waits for, not how busy the machine is.

    The loop's steps are timed. One that takes long was held up: it counts as 20 ms. So a block
    that keeps the loop from running is not to be measured with it.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """What has passed so far."""
        return self._seconds + min(time.monotonic() - self._last, _LONGEST_STEP_SECONDS)

    async def __aenter__(self) -> Self:
        self._last = time.monotonic()
        self._going = asyncio.create_task(self._go())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._going.cancel()
        self._step()

    async def _go(self) -> None:
        while True:
            await asyncio.sleep(_STEP_SECONDS)
            self._step()

    def _step(self) -> None:
        self._seconds, self._last = self.seconds, time.monotonic()


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """End the block with TimeoutError after so many seconds of a `Stopwatch`."""
    async with asyncio.timeout(None) as limit, Stopwatch() as watch:

        async def expire() -> None:
            while watch.seconds < seconds:  # noqa: ASYNC110 (a clock tells nobody)
                await asyncio.sleep(_STEP_SECONDS)
            limit.reschedule(asyncio.get_running_loop().time())

        expiring = asyncio.create_task(expire())
        try:
            yield
        finally:
            expiring.cancel()
