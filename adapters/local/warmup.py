"""A model's way from cold to ready, behind a server that already listens, and back when idle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from adapters.local.packaged import PackageMissing

_LOGGER = logging.getLogger(__name__)


class State(StrEnum):
    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemand:
    """How a model that is loaded when it is first asked for comes and goes.

    `check` raises PackageMissing if loading cannot succeed; it is asked while the model is cold.
    `unload` is called on the event loop once nobody has used the model for `idle_seconds`.
    """

    check: Callable[[], None]
    unload: Callable[[], None]
    idle_seconds: float


class Warmup:
    """Runs a blocking `load` in a thread. The state is read from its task.

    `delay_seconds` comes before the load, to pretend a cold start; `expected_seconds` is what the
    load itself usually takes, until it has been measured. A load that failed stays failed.
    """

    def __init__(
        self,
        load: Callable[[], None],
        *,
        expected_seconds: float,
        delay_seconds: float = 0.0,
        on_demand: OnDemand | None = None,
    ) -> None:
        self._load = load
        self._delay_seconds = delay_seconds
        self._duration_seconds = delay_seconds + expected_seconds
        self._on_demand = on_demand
        self._task: asyncio.Task[None] | None = None
        self._started_at = 0.0
        self._users = 0
        self._idle: asyncio.TimerHandle | None = None

    @property
    def is_on_demand(self) -> bool:
        return self._on_demand is not None

    def start(self) -> None:
        """Begin to load on the running event loop, unless that has begun before."""
        if self._task is None:
            self._started_at = time.monotonic()
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(self._finish)

    @property
    def state(self) -> State:
        if self._task is None:
            return State.COLD if self.failure is None else State.FAILED
        if not self._task.done() or self._task.cancelled():
            return State.LOADING
        return State.READY if self.failure is None else State.FAILED

    @property
    def failure(self) -> BaseException | None:
        """Why loading failed, if it did, or why it would."""
        if self._task is None:
            return self._checked()
        if not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    @property
    def estimated_seconds(self) -> float:
        """How much longer loading is thought to take: never nothing, to the tenth."""
        elapsed = time.monotonic() - self._started_at if self._task else 0.0
        return round(max(0.1, self._duration_seconds - elapsed), 1)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the model loaded meanwhile; afterwards its idle time begins anew."""
        self._users += 1
        self._cancel_idle()
        try:
            yield
        finally:
            self._users -= 1
            self._begin_idle()

    async def finished(self) -> None:
        """Wait until loading has ended, well or not."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """Give up a load that has not begun, and wait for one that has."""
        self._cancel_idle()
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

    def _finish(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        if error := task.exception():
            _LOGGER.error("loading failed: %s", error)
            return
        self._duration_seconds = time.monotonic() - self._started_at
        self._begin_idle()

    def _checked(self) -> PackageMissing | None:
        if self._on_demand is not None:
            try:
                self._on_demand.check()
            except PackageMissing as error:
                return error
        return None

    def _begin_idle(self) -> None:
        if self._on_demand and not self._users and self._task and self.state is State.READY:
            self._cancel_idle()
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._on_demand.idle_seconds, self._retire)

    def _cancel_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _retire(self) -> None:
        if self._on_demand is not None:
            self._idle = self._task = None
            self._on_demand.unload()
