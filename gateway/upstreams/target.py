"""What serves a model: upstreams, targets at them, and the model itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

from adapters.base import Dialect, Task
from adapters.dialects import DIALECTS
from adapters.errors import Misconfigured, ModelMissing, UpstreamError
from adapters.http import Upstream as Server
from adapters.native_calls import NATIVE
from gateway.config_catalog import Embedding
from gateway.prices import Price
from gateway.upstreams.coldstart import ColdStart
from gateway.upstreams.gate import Crowded, Gate
from gateway.upstreams.health import Health
from gateway.upstreams.results import Results
from gateway.upstreams.retry_budget import RetryBudget
from gateway.upstreams.watcher import NOBODY, Watcher
from gateway.voices import Voices


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that is called, and the dialect it speaks."""

    server: Server
    dialect_name: str
    load_wait_seconds: float
    max_body_bytes: int | None = None
    credential: str | None = field(default=None, repr=False)
    timeout_seconds: float = 600
    gate: Gate = field(default_factory=lambda: Gate("", limit=None))
    health_path: str | None = None
    health_interval_seconds: float | None = None
    is_cold_by_status: bool = False  # 502 and 503 mean that it is starting
    cold_start: Callable[[str], ColdStart] = lambda _: ColdStart()  # of a model
    root: Server | None = None  # where it is asked for its health
    results: Results = field(default_factory=Results)
    watcher: Watcher = NOBODY

    @property
    def dialect(self) -> Dialect:
        """The wire format."""
        return DIALECTS[self.dialect_name]

    @property
    def is_native(self) -> bool:
        """Whether it takes requests of the native API as they come."""
        return self.dialect_name in NATIVE

    @property
    def renders(self) -> bool:
        """Whether it takes prompts, so that chat templates are applied here."""
        return Task.CHAT in self.dialect and self.dialect[Task.CHAT].renders

    @property
    def name(self) -> str:
        """The configured name."""
        return self.server.name

    def discreet(self, text: str) -> str:
        """Return `text` without the credential."""
        return text.replace(self.credential, "…") if self.credential else text


@dataclass(slots=True, eq=False)
class Target:
    """One model at one upstream. `outstanding`: how many calls it has to answer."""

    upstream: Upstream
    model: str
    weight: float = 1
    priority: int = 0
    refusal_seconds: float = 0
    is_gated: bool = False  # behind a licence, which the gateway's account may not have accepted
    cold_start: ColdStart = field(init=False)
    health: Health = field(default_factory=Health)
    outstanding: int = 0
    unused_parameters: frozenset[str] = frozenset()  # that its server refuses and can do without
    _refusals: dict[Task, tuple[UpstreamError, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cold_start = self.upstream.cold_start(self.model)
        self.cold_start.on_waited = partial(self.upstream.watcher.waited_for_loading, self)

    def note(self, task: Task, error: UpstreamError | None) -> None:
        """Remember what an answer, or the lack of one, tells about this target."""
        if isinstance(error, Crowded):
            return
        if error is None:
            self.health.succeed()
            return
        self.health.fail(error)
        if _is_lasting(error):
            self._refusals[task] = error, time.monotonic() + self.refusal_seconds

    def refusal(self, task: Task) -> UpstreamError | None:
        """Return what the upstream would say again: that it has no such model, or not for us.

        A client that asks on and on for a model that is not there so does not use up what the
        upstream allows the gateway.
        """
        if self._refusals:
            error, until = self._refusals.get(task, (None, 0.0))
            if error is not None and time.monotonic() < until:
                return copy.copy(error)  # each who raises it adds a traceback
        return None

    def hindrance(self, task: Task) -> str | None:
        """Return why it is not worth a try (`busy`, `resting`, `refused`), None if it is."""
        return self.health.hindrance or ("refused" if self.refusal(task) else None)

    def may_be_asked(self, task: Task) -> bool:
        """Tell whether it is worth a try."""
        return self.hindrance(task) is None

    @property
    def state(self) -> str:
        """`ready`, `loading`, `down`, or `cold`: not asked yet."""
        if self.cold_start.loading:
            return "loading"
        return {None: "cold", True: "ready", False: "down"}[self.health.reachable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of the catalogue. `defaults`: parameters for requests that leave them unset."""

    id: str
    aliases: tuple[str, ...]
    task: str
    tokenizer: str | None
    targets: tuple[Target, ...]
    fallbacks: tuple[str, ...] = ()
    retries: RetryBudget = field(default_factory=RetryBudget)
    cache_ttl_seconds: int
    max_tokens_default: int
    context_length: int | None = None
    defaults: dict[str, Any]
    fingerprint: str
    vision: bool = False
    image_placeholder: str | None = None
    voices: Voices
    embedding: Embedding
    price: Price

    @property
    def state(self) -> str:
        """The best of its targets' states."""
        states = {target.state for target in self.targets}
        return next(state for state in ("ready", "cold", "loading", "down") if state in states)


def _is_lasting(error: UpstreamError) -> bool:
    """Tell whether `error` is about the model, and stays true until someone acts."""
    return isinstance(error, ModelMissing) or (
        isinstance(error, Misconfigured) and error.status == HTTPStatus.FORBIDDEN
    )
