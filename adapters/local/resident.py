"""An engine that is in memory while it is wanted, and the one thread that computes with it."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event
from typing import Generic, TypeVar

from adapters.local.packaged import Needs
from adapters.local.problems import GenerationFailed, Overloaded, Unhealthy
from adapters.local.registry import Operation
from adapters.local.warmup import OnDemand, Warmup

EngineT = TypeVar("EngineT")
ResultT = TypeVar("ResultT")

_SHARES = 4  # the models beside text, any of which may be computing


def share_of_cores() -> int:
    """Return how many threads one model may compute with, so that all of them fit the cores."""
    return max(1, (os.cpu_count() or 1) // _SHARES)


class Stopped(Exception):
    """Nobody waits for a computation any more. Raised and caught within its own thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentSettings:
    """How an engine is kept: requests beyond `max_requests`, running or waiting, are turned away.

    It leaves the memory when nobody has used it for `idle_seconds`.
    """

    threads: int = field(default_factory=share_of_cores)
    max_requests: int = 16
    idle_seconds: float = 300.0
    load_delay_seconds: float = 0.0


class Resident(ABC, Generic[EngineT]):
    """One engine: loaded when it is first wanted, used by one job at a time, in order of arrival.

    A model is one of these.
    """

    operations = frozenset({Operation.PREDICT})

    def __init__(
        self, *, needs: Needs, expected_seconds: float, settings: ResidentSettings
    ) -> None:
        self._max_requests = settings.max_requests
        self._engine: EngineT | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="resident")
        self._stops: set[Event] = set()
        self._closed = False
        self.warmup = Warmup(
            self._load,
            expected_seconds=expected_seconds,
            delay_seconds=settings.load_delay_seconds,
            on_demand=OnDemand(
                check=needs.check, unload=self._unload, idle_seconds=settings.idle_seconds
            ),
        )

    @abstractmethod
    def load(self) -> EngineT:
        """Return the engine, after what makes its first use slow. Blocks, in its own thread.

        Raises PackageMissing.
        """

    async def run(self, job: Callable[[EngineT, Callable[[], None]], ResultT]) -> ResultT:
        """Return what `job` makes with the engine, in a thread.

        `job` calls its second argument wherever it can be stopped; that raises Stopped once this
        is cancelled. Raises Overloaded, GenerationFailed, and the Problems of `job`.
        """
        if self._closed or self._engine is None:
            raise Unhealthy
        if len(self._stops) >= self._max_requests:
            raise Overloaded
        stop = Event()
        self._stops.add(stop)
        future = self._thread.submit(_compute, job, self._engine, stop)
        waiting = asyncio.wrap_future(future)
        # The place is free when the thread is, which is later than the client's leaving.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._stops.discard, stop))
        try:
            return await waiting
        except Stopped:
            raise Unhealthy from None
        finally:
            stop.set()

    def close(self) -> None:
        """Stop every job, waiting ones too, and free the engine. Blocks. Idempotent."""
        self._closed = True
        for stop in tuple(self._stops):
            stop.set()
        self._thread.shutdown(wait=True)
        self._engine = None

    def _load(self) -> None:
        self._engine = self.load()

    def _unload(self) -> None:
        self._engine = None
        if not self._closed:
            self._thread.submit(_give_memory_back)


def _give_memory_back() -> None:
    """Return to the system what was freed: glibc would keep some 100 MB of each engine."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # other systems have no such call
        ctypes.CDLL(None).malloc_trim(0)


def _compute(
    job: Callable[[EngineT, Callable[[], None]], ResultT], engine: EngineT, stop: Event
) -> ResultT:
    def checkpoint() -> None:
        if stop.is_set():
            raise Stopped

    checkpoint()
    try:
        return job(engine, checkpoint)
    except (RuntimeError, MemoryError) as error:
        # What onnxruntime and ctranslate2 raise. Their words may hold parts of the input.
        raise GenerationFailed(type(error).__name__) from error
