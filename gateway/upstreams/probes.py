"""Servers asked for their health: all the time where that is configured, else while they rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from adapters.base import Call
from adapters.errors import UpstreamError
from gateway.upstreams.health import Health, draw_between
from gateway.upstreams.target import Target, Upstream

_PAUSE_SECONDS = 1.0  # less than the shortest rest: who is still down by then is not tried in vain

logger = logging.getLogger(__name__)


class Probes:
    """Asks the upstreams that have a health page, each one question at a time.

    Its answer counts for all targets there. Every worker asks for itself. An upstream is asked
    every `health_interval_seconds`, and every `pause_seconds` while one of its targets rests or
    it is down, give or take a fifth.
    """

    def __init__(
        self,
        targets: Iterable[Target],
        *,
        pause_seconds: float = _PAUSE_SECONDS,
        jitter: Callable[[float, float], float] = draw_between,
    ) -> None:
        self._pause_seconds = pause_seconds
        self._jitter = jitter
        self._asking: list[asyncio.Task[None]] = []
        self._targets: dict[str, list[Target]] = {}
        for target in targets:
            if target.upstream.root and target.upstream.health_path:
                self._targets.setdefault(target.upstream.name, []).append(target)

    async def __aenter__(self) -> Self:
        self._asking = [
            asyncio.create_task(self._ask_on(targets[0].upstream, [one.health for one in targets]))
            for targets in self._targets.values()
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _ask_on(self, upstream: Upstream, healths: Sequence[Health]) -> None:
        loop = asyncio.get_running_loop()
        interval = upstream.health_interval_seconds or float("inf")
        pause, was_up = min(self._pause_seconds, interval), True
        due_at = loop.time() + interval * self._jitter(0, 1)  # not all workers at once
        while True:
            await asyncio.sleep(pause * self._jitter(0.8, 1.2))
            is_of_interest = any(one.is_resting or one.is_down for one in healths)
            if loop.time() < due_at and not is_of_interest:
                continue
            due_at = loop.time() + interval * self._jitter(0.8, 1.2)
            is_up = await is_well(upstream)
            for health in healths:
                health.hear(is_up=is_up)
            if is_up != was_up:
                logger.warning("upstream %r is %s", upstream.name, "up again" if is_up else "down")
            was_up = is_up


async def is_well(upstream: Upstream) -> bool:
    """Tell whether the upstream says that it is well.

    Whatever is no failure will do: an address at which there is no such page must not keep a
    server out of rotation for good.
    """
    path, _, query = (upstream.health_path or "/").partition("?")
    try:
        reply = await (upstream.root or upstream.server).open(
            Call(path=path, query=query, body=b"", method="GET")
        )
    except UpstreamError:
        return False
    await reply.drain()
    return reply.status < 500
