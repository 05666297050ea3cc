"""The workers, generation after generation.

One generation serves. A reload starts the next on the same socket, and retires the one before it
when all of the new one serve: that accepts nothing more, finishes what it has begun, and ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import msgspec

from gateway.assignment import Assignment
from gateway.config import ConfigError, Settings
from gateway.departure import RETIRE
from gateway.logs.diagnostics import configure_logging
from gateway.notifier import Notifier
from gateway.roll import Roll, WorkerLost
from gateway.source import Source, check_reload, summary
from gateway.supervisor import Child, Running, Supervisor

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0  # for what a worker still has to do once its streams are over
_START_SECONDS = 60.0

WORKER_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 1024 * 1024),
}
"""glibc's settings for workers: blocks from 4 MiB go back to the system as soon as they are freed,
smaller ones once 8 MiB of them are free at the heap's end.

Left alone it raises both, and a hundred images of 4 MB leave 25 to 71 MB behind instead of 0 to 18.
With lower ones the pages of every picture are fetched anew: serving one of 2 MB from the cache then
takes a worker 9 ms of CPU instead of 3.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Workers with the same settings. `config`: their own copy of the file, if there is one."""

    settings: Settings
    config: Path | None
    roll: Roll
    workers: list[Running] = field(default_factory=list)

    def patience_seconds(self, number: int) -> float:
        """Return how long a worker may take to retire: one that never served has nothing to end."""
        seconds = self.settings.server.retire_seconds if self.roll.has_served(number) else 0
        return seconds + _GRACE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all generations share: `configs` has their copies of the file, `metrics` their figures.

    `assignment` is what their workers are told, but for what each generation has of its own.
    """

    source: Source
    assignment: Assignment
    configs: Path
    metrics: Path

    @classmethod
    def below(cls, data_dir: Path, *, source: Source, assignment: Assignment) -> Self:
        """Return a site with its folders in `data_dir`."""
        return cls(
            source=source,
            assignment=assignment,
            configs=data_dir / "generations",
            metrics=data_dir / "metrics",
        )

    def clear(self) -> None:
        """Make the folders, without what a gateway before has left in them."""
        for folder in (self.configs, self.metrics):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, parents=True)


class Generations:
    """The workers of `site`, children of `supervisor`."""

    def __init__(self, supervisor: Supervisor, site: Site, notifier: Notifier) -> None:
        self._supervisor = supervisor
        self._site = site
        self._notifier = notifier
        self._number = 0
        self._group: list[Running] = []
        self._follower: asyncio.Task[None] | None = None
        self._is_frozen = False
        self._retiring: set[asyncio.Task[None]] = set()

    async def start(self, settings: Settings) -> Generation:
        """Start and return the first generation. Raises ConfigError and OSError."""
        self._group = await self._supervisor.start()
        first = self._next(settings)
        await self._begin(first)
        return first

    def follow(self, current: Generation, wish: asyncio.Event) -> None:
        """Reload whenever `wish` is set, one at a time: what is wished meanwhile comes after."""
        if not self._is_frozen:
            self._follower = asyncio.create_task(self._follow(current, wish), name="reload")

    def freeze(self) -> None:
        """Start nothing any more."""
        self._is_frozen = True
        if self._follower:
            self._follower.cancel()

    async def aclose(self) -> None:
        """Wait for what was begun; the workers have ended."""
        self.freeze()
        tasks = [*self._retiring, *([self._follower] if self._follower else [])]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, current: Generation, wish: asyncio.Event) -> None:
        while True:
            await wish.wait()
            wish.clear()
            self._notifier.reloading()
            began = time.perf_counter()
            try:
                old, current = current, await self._replace(current)
            except TimeoutError:
                logger.error("not reloaded: not all workers serve after %g seconds", _START_SECONDS)
            except (ConfigError, WorkerLost, OSError) as exc:
                for problem in str(exc).splitlines():
                    # No template, which would be one message, and told a few times only.
                    logger.error(f"not reloaded: {problem}")
            else:
                if old.settings.logs != current.settings.logs:
                    configure_logging(current.settings.logs)
                _announce(old, current, seconds=time.perf_counter() - began)
            self._notifier.ready()

    async def _replace(self, old: Generation) -> Generation:
        """Put a new generation in the place of `old` and return it.

        Raises ConfigError, WorkerLost, TimeoutError or OSError. Then `old` serves on.
        """
        settings = self._site.source.read()
        check_reload(old.settings, settings)
        new = self._next(settings)
        try:
            await self._begin(new)
            async with asyncio.timeout(_START_SECONDS):
                await new.roll.complete()
        except (WorkerLost, TimeoutError, OSError):
            self._retire(new)  # some of it may serve already
            raise
        self._retire(old)
        return new

    def _next(self, settings: Settings) -> Generation:
        self._number += 1
        config = self._site.source.keep(settings, self._site.configs / f"{self._number}.toml")
        return Generation(settings=settings, config=config, roll=Roll(settings.server.workers))

    async def _begin(self, generation: Generation) -> None:
        for number in range(1, generation.settings.server.workers + 1):
            child = self._child(generation, number)
            generation.workers.extend(await self._supervisor.add(self._group, child))

    def _child(self, generation: Generation, number: int) -> Child:
        assignment = msgspec.structs.replace(
            self._site.assignment,
            config=str(generation.config) if generation.config else None,
            ready_fd=generation.roll.fd,
            loads_first=self._number > 1,
            worker=number,
        )
        metrics = {"PROMETHEUS_MULTIPROC_DIR": str(self._site.metrics)}
        return Child(
            name=f"worker {number}",
            command=(sys.executable, "-m", "gateway.worker", str(number)),
            env={**WORKER_MALLOC, **os.environ, **metrics, **assignment.environment()},
            pass_fds=(assignment.fd, assignment.start_fd, assignment.ready_fd),
            drain_seconds=generation.settings.server.drain_seconds + _GRACE_SECONDS,
            on_exit=partial(self._mourn, generation, number),
        )

    def _mourn(self, generation: Generation, number: int, pid: int, exit_code: int) -> None:
        generation.roll.lose(number, exit_code)
        # What prometheus_client's `mark_process_dead` does, whose import takes 50 ms.
        for gauge in self._site.metrics.glob(f"gauge_live*_{pid}.db"):
            with suppress(OSError):  # whoever asks still has to start the successor
                gauge.unlink()

    def _retire(self, generation: Generation) -> None:
        task = asyncio.create_task(self._see_off(generation), name="retire")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _see_off(self, generation: Generation) -> None:
        await asyncio.gather(
            *(
                self._supervisor.retire(
                    self._group, worker, number=RETIRE, seconds=generation.patience_seconds(number)
                )
                for number, worker in enumerate(generation.workers, 1)
            )
        )
        generation.roll.close()
        if generation.config:
            generation.config.unlink(missing_ok=True)


def _announce(old: Generation, new: Generation, *, seconds: float) -> None:
    workers = new.settings.server.workers
    with suppress(OSError):  # whoever started the gateway may have closed its output since
        print(
            f"reloaded in {seconds:.1f} s: {summary(old.settings, new.settings)}; "
            f"{workers} worker{'s'[: workers > 1]}",
            flush=True,
        )
