"""One exchange: a request on its way, and what it is answered with."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from adapters.base import Json, Media, Task
from gateway.catalog import Model, Target
from gateway.keys import Caller


@dataclass(frozen=True, slots=True)
class Route:
    """Where an exchange goes."""

    model: Model
    target: Target


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request: what came in, and what became of it.

    `usage` is what it used, by unit: `images`, `pixels`, `characters`, `audio_seconds`, …
    """

    id: str
    task: Task
    caller: Caller
    body: Json
    media: Media | None = None
    wait_for_model: bool = True
    base_url: str = ""  # where the client reached the gateway
    route: Route | None = None
    ignored: tuple[str, ...] = ()
    scaled_images: int = 0  # the client's, scaled down for the upstream
    usage: dict[str, float] = field(default_factory=dict)
    upstream_ms: float = 0
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def is_stream(self) -> bool:
        """Whether the client asked for events. Its `Accept` says nothing: SDKs send JSON's."""
        return self.body.get("stream") is True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent inside as time spent waiting for the upstream."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.upstream_ms += (time.perf_counter() - began) * 1000


@dataclass(frozen=True, slots=True)
class Body:
    """A whole answer."""

    data: bytes
    content_type: str = "application/json"


class Frames(Protocol):
    """An answer that leaves in pieces. Iterating `frames` never raises.

    `is_over` turns true with the last piece. Whoever got it closes it.
    """

    content_type: str
    is_over: bool

    def frames(self) -> AsyncIterator[bytes]:
        """Yield the pieces."""

    async def aclose(self) -> None:
        """End what is still under way."""


Answer = Body | Frames


class TaskAnswer(Protocol):
    """What makes the answers of one task."""

    async def __call__(self, exchange: Exchange, route: Route) -> Answer:
        """Return the answer. Raises GatewayError, UpstreamError, DialectError."""
