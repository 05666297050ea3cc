"""How metrics are told: as text, of this process or of all workers that share a folder."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Task
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gateway.metrics.dead import listed
from gateway.metrics.merging import UNREADABLE, merged

logger = logging.getLogger(__name__)

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text"
_REST = 9  # times as long as it took, so that whoever floods it gets a tenth of a processor
_LEAST_REST_SECONDS, _LONGEST_REST_SECONDS = 0.05, 1.0  # the stores are asked too
# Without types.
_as_openmetrics = cast("Callable[[CollectorRegistry], bytes]", openmetrics.generate_latest)


class Exposition:
    """Tells metrics. Whoever asks while they are being gathered gets the same.

    They are gathered once at a time, then not for nine times as long as that took the processor,
    but for a second at most. Whoever asks meanwhile waits, and is told what is true then.

    `folder`: where the workers keep them; without it they are those of `registry`. `ask`: what
    else there is to tell. Close it when nobody asks any more.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        folder: Path | None,
        ask: Callable[[], Awaitable[Sequence[Family]]],
    ) -> None:
        self._kept: Collector = _Files(folder) if folder else registry
        self._ask = ask
        self._rendering: dict[bool, Task[bytes]] = {}
        self._alone = asyncio.Lock()
        self._rests_until = 0.0

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the text and its content type: OpenMetrics if `accept` names it."""
        is_open = _OPENMETRICS in accept
        task = self._rendering.get(is_open)
        if task is None:
            task = self._rendering[is_open] = asyncio.create_task(self._render(is_open))
            task.add_done_callback(lambda _: self._rendering.pop(is_open))
        # One of those who wait may leave.
        return await asyncio.shield(task), openmetrics.CONTENT_TYPE_LATEST if is_open else _TEXT

    async def aclose(self) -> None:
        """End what is under way."""
        for task in (tasks := list(self._rendering.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _render(self, is_open: bool) -> bytes:
        async with self._alone:
            await asyncio.sleep(self._rests_until - time.monotonic())
            asked = await self._ask()
            text, seconds = await asyncio.to_thread(_text, [self._kept, _Given(asked)], is_open)
            rest_seconds = min(max(_REST * seconds, _LEAST_REST_SECONDS), _LONGEST_REST_SECONDS)
            self._rests_until = time.monotonic() + rest_seconds
        return text


def _text(collectors: Iterable[Collector], is_open: bool) -> tuple[bytes, float]:
    """Return the text, and for how many seconds it kept the processor busy."""
    began = time.thread_time()
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    text = _as_openmetrics(registry) if is_open else exposition.generate_latest(registry)
    return text, time.thread_time() - began


class _Given(Collector):
    """What is there already."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


class _Files(Collector):
    """What all workers have written, the dead ones included. Damaged files are passed over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._damaged: set[Path] = set()

    def collect(self) -> Iterable[Family]:
        with listed(self._folder) as found:
            files = [file for file in found if file not in self._damaged]
            try:
                return merged(files)
            except UNREADABLE:
                return merged(list(self._readable(files)))

    def _readable(self, files: Iterable[Path]) -> Iterator[Path]:
        for file in files:
            try:
                merged([file])
            except UNREADABLE as error:
                if _has_content(file):  # it is not just being made, or removed
                    logger.warning("metrics in %r cannot be read: %s", file.name, error)
                    self._damaged.add(file)
            else:
                yield file


def _has_content(file: Path) -> bool:
    with suppress(OSError):
        return file.stat().st_size > 0
    return False
