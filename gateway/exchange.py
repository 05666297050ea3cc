"""One exchange: a request on its way, and what it is answered with."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from adapters.base import Json, Media, Request, Task
from gateway.amounts import Usage
from gateway.answers import Head
from gateway.cache.directives import NO_DIRECTIVES, Directives
from gateway.errors import GatewayError
from gateway.found import Found
from gateway.keys import Caller
from gateway.ledger import Record
from gateway.native.request import NativeRequest
from gateway.quotas import Snapshot
from gateway.tapes import Part, Tape
from gateway.text_form import OPENAI_FORM, TextForm
from gateway.upstreams.errand import Errand
from gateway.upstreams.target import Model, Target, Upstream


@dataclass(frozen=True, slots=True)
class Route:
    """Where an exchange goes. `waits`: while the model loads, for lack of another target."""

    model: Model
    target: Target
    waits: bool = True


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request: what came in, and what became of it.

    `usage` is at no moment more than what was received. It is complete once `send` has ended, of
    a stream once its last piece is there or it is closed. `finish` is the finish reason of the
    first choice that ended. `counts_tokens`: an exact estimate is worth running a tokenizer.
    """

    id: str
    task: Task
    caller: Caller
    body: Json
    media: Media | None = None
    form: TextForm = OPENAI_FORM  # of its answer, if it is a text
    native: NativeRequest | None = None  # as it came, if it came by the native API
    wait_for_model: bool = True
    directives: Directives = NO_DIRECTIVES
    is_paced: bool = False  # what was kept is to come at the pace at which it was made
    base_url: str = ""  # where the client reached the gateway
    client: str = ""  # its address
    trace: tuple[tuple[str, str], ...] = ()  # headers that go with its calls
    counts_tokens: bool = True
    route: Route | None = None
    found: Found | None = None  # what its answer is made of
    unheard: tuple[str, ...] = ()  # names of what the client sent and `body` cannot say
    ignored: tuple[str, ...] = ()  # names of what the upstream's dialect cannot
    scaled_images: int = 0  # the client's, scaled down for the upstream
    told: tuple[tuple[str, str], ...] = ()  # headers of the upstream's that the client gets
    usage: Usage = field(default_factory=Usage)
    finish: str | None = None
    retries: int = 0
    upstream_ms: float = 0
    began: float = field(default_factory=time.perf_counter)
    first_token_ms: int | None = None
    snapshot: Snapshot | None = None  # of the account, when it was admitted
    exceeded: str | None = None  # the limit that it was refused by
    record: Record | None = None  # what the ledger has of it, once it is settled
    is_degraded: bool = False  # admitted without the state store
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def is_stream(self) -> bool:
        """Whether the client asked for events. Its `Accept` says nothing: SDKs send JSON's."""
        return self.body.get("stream") is True

    @property
    def model(self) -> str:
        """The client's name of the model."""
        name: str = self.body["model"]
        return name

    def can_go_to(self, upstream: Upstream) -> bool:
        """Tell whether `upstream` knows such requests."""
        return self.task in upstream.dialect or (self.native is not None and upstream.is_native)

    @property
    def age_seconds(self) -> float:
        """How long ago it came."""
        return time.perf_counter() - self.began

    @property
    def use_upstream_cache(self) -> bool:
        """Whether an answer will do that the upstream has given before."""
        return not self.directives.is_forwarded

    def errand(self, route: Route, request: Request) -> Errand:
        """Return `request` on its way along `route`."""
        waits = route.waits and self.wait_for_model
        return Errand(
            target=route.target,
            request=request,
            sender=self.caller.id,
            waits=waits,
            trace=self.trace,
        )

    def head(self, model: Model) -> Head:
        """Return what all objects of an answer that `model` makes share."""
        return Head(
            task=self.task,
            id=self.id.replace("-", ""),
            created=self.created,
            model=self.model,
            fingerprint=model.fingerprint,
        )

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
    status: int = 200


UNCHANGED = Body(b"", status=304)
"""Tells a client that what it has is what it would get."""


class Frames(Protocol):
    """An answer that leaves in pieces. Iterating `frames` never raises.

    `is_over` turns true with the last piece, `error` is what cut it short. Whoever got it closes
    it.
    """

    content_type: str
    is_over: bool
    error: GatewayError | None

    def frames(self) -> AsyncIterator[bytes]:
        """Yield the pieces."""

    async def aclose(self) -> None:
        """End what is still under way."""


Answer = Body | Frames


class Job(Protocol):
    """What is to be made for one exchange, nothing of it sent yet.

    `estimate`: what it may use at most. `is_repeatable`: whether made again it would be the same,
    as far as the client can know: it is seeded, greedy, or nothing is drawn.
    """

    @property
    def estimate(self) -> Usage: ...

    @property
    def is_repeatable(self) -> bool: ...

    @property
    def parts(self) -> Sequence[Part]: ...

    async def answer(self, tapes: Sequence[Tape]) -> Answer:
        """Return the answer, made of a tape for each part, which it closes.

        A stream is returned once its first piece is there. Raises GatewayError, UpstreamError.
        """


class TaskAnswer(Protocol):
    """What makes the answers of one task."""

    async def prepare(self, exchange: Exchange, route: Route) -> Job:
        """Return what is to be sent, all checked and rendered. Raises GatewayError, DialectError.

        All that can fail by the client's fault or the operator's fails here.
        """
