"""A model's way from cold to ready, behind a server that already listens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from enum import StrEnum

_LOGGER = logging.getLogger(__name__)


class State(StrEnum):
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class Warmup:
    """Runs a blocking `load` in a thread, once. The state is read from its task.

    `delay_seconds` comes before the load, to pretend a cold start; `expected_seconds` is what the
    load itself usually takes.
    """

    def __init__(
        self,
        load: Callable[[], None],
        *,
        expected_seconds: float,
        delay_seconds: float = 0.0,
    ) -> None:
        self._load = load
        self._delay_seconds = delay_seconds
        self._duration_seconds = delay_seconds + expected_seconds
        self._task: asyncio.Task[None] | None = None
        self._started_at = 0.0

    def start(self) -> None:
        """Begin to load on the running event loop."""
        self._started_at = time.monotonic()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_report)

    @property
    def state(self) -> State:
        if self._task is None or not self._task.done() or self._task.cancelled():
            return State.LOADING
        return State.READY if self.failure is None else State.FAILED

    @property
    def failure(self) -> BaseException | None:
        """Why loading failed, if it did."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    @property
    def estimated_seconds(self) -> float:
        """How much longer loading is thought to take: never nothing, to the tenth."""
        elapsed = time.monotonic() - self._started_at if self._task else 0.0
        return round(max(0.1, self._duration_seconds - elapsed), 1)

    async def finished(self) -> None:
        """Wait until loading has ended, well or not."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """Give up a load that has not begun, and wait for one that has."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        await asyncio.sleep(self._delay_seconds)
        # Shielded: a thread cannot be stopped, and the model must not be closed under it.
        thread = asyncio.ensure_future(asyncio.to_thread(self._load))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            await thread
            raise


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _LOGGER.error("loading failed: %s", error)
