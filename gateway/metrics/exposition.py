"""How metrics are told: as text, of this process or of all workers that share a folder."""

from __future__ import annotations

import asyncio
import logging
import struct
from asyncio import Task
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text"
# Without types.
_as_openmetrics = cast("Callable[[CollectorRegistry], bytes]", openmetrics.generate_latest)
_merge = cast("Callable[[Iterable[str]], Iterable[Family]]", MultiProcessCollector.merge)
# What reading a file raises that another process has just made, or left behind damaged.
_UNREADABLE = (OSError, RuntimeError, ValueError, LookupError, struct.error)


class Exposition:
    """Tells metrics. Whoever asks while they are being gathered gets the same.

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
        asked = await self._ask()
        return await asyncio.to_thread(_text, [self._kept, _Given(asked)], is_open)


def _text(collectors: Iterable[Collector], is_open: bool) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    if is_open:
        return _as_openmetrics(registry)
    return exposition.generate_latest(registry)


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
        files = [file for file in self._folder.glob("*.db") if file not in self._damaged]
        try:
            return _merged(files)
        except _UNREADABLE:
            return _merged(list(self._readable(files)))

    def _readable(self, files: Iterable[Path]) -> Iterator[Path]:
        for file in files:
            try:
                _merged([file])
            except _UNREADABLE as error:
                if _has_content(file):  # it is not just being made, or removed
                    logger.warning("metrics in %r cannot be read: %s", file.name, error)
                    self._damaged.add(file)
            else:
                yield file


def _has_content(file: Path) -> bool:
    with suppress(OSError):
        return file.stat().st_size > 0
    return False


def _merged(files: Sequence[Path]) -> list[Family]:
    return list(_merge(map(str, files)))
