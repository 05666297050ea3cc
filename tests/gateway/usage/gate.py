"""Routes to an upstream for one task each, and answers that go one by one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from adapters.base import Media, Task
from adapters.transport import Transport
from gateway.config import Settings
from gateway.exchange import Exchange, Frames, Route
from gateway.keys import Caller
from gateway.upstreams.catalog import Catalog
from tests.scripted_upstream import Upstream, Visit


def route(upstream: Upstream, task: Task, *, dialect: str = "hf", **options: Any) -> Route:
    """Return the route of the model `m`, which serves `task`."""
    settings = Settings.model_validate(
        {
            "upstreams": [{"name": "up", "dialect": dialect, "base_url": upstream.url}],
            "models": [{"id": "m", "task": task, "targets": [{"upstream": "up"}], **options}],
        }
    )
    [model] = Catalog(settings, Transport()).models
    return Route(model, model.targets[0])


def exchange(task: Task, /, *, media: Media | None = None, **body: Any) -> Exchange:
    """Return a request of the model `m`."""
    caller = Caller(id="id", name="test")
    return Exchange(id="0", task=task, caller=caller, body={"model": "m", **body}, media=media)


class Gate:
    """Lets answers go one by one, in the order of `turn`; `answered` counts those that went."""

    def __init__(
        self,
        upstream: Upstream,
        answer: Callable[[Visit], bytes],
        *,
        turn: Callable[[Visit], int] | None = None,
    ) -> None:
        self.answered = 0
        self._answer = answer
        self._arrived = itertools.count()
        self._turn = turn or (lambda _: next(self._arrived))
        self._opened = 0
        self._changed = asyncio.Condition()
        upstream.play(self._play)

    async def open(self) -> None:
        """Let one more answer go."""
        async with self._changed:
            self._opened += 1
            self._changed.notify_all()

    async def _play(self, visit: Visit) -> None:
        turn = self._turn(visit)
        async with self._changed:
            await self._changed.wait_for(lambda: turn < self._opened)
        self.answered += 1
        await visit.send(self._answer(visit))


async def left_after(frames: Frames, gate: Gate, *, reads: int) -> None:
    """Read the first frame, then `reads` more of which each waits for an answer; and leave."""
    pieces = frames.frames()
    await anext(pieces)
    for _ in range(reads):
        await gate.open()
        await anext(pieces)
    await frames.aclose()
