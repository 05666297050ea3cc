"""The models that clients may ask for, and the targets that serve them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from typing import Any

import httpx

from adapters.base import Dialect, Task
from adapters.dialects import AUTH_SCHEMES, DIALECTS, UNDER_V1
from adapters.errors import Misconfigured, ModelMissing, TimedOut, Unreachable, UpstreamError
from adapters.http import Timeouts
from adapters.http import Upstream as Server
from gateway.coldstart import ColdStart
from gateway.config import Cache, ConfigError, Embedding, Settings
from gateway.config import Model as ModelSettings
from gateway.config import Price as PriceSettings
from gateway.config import Upstream as UpstreamSettings
from gateway.errors import model_not_found
from gateway.keys import Caller
from gateway.prices import Price, nano
from gateway.voices import Voices

_DOWN = (Unreachable, TimedOut, Misconfigured, ModelMissing)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that is called, and the dialect it speaks."""

    server: Server
    dialect_name: str
    load_wait_seconds: float
    max_body_bytes: int | None = None
    credential: str | None = field(default=None, repr=False)

    @property
    def dialect(self) -> Dialect:
        """The wire format."""
        return DIALECTS[self.dialect_name]

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


@dataclass(slots=True)
class Target:
    """One model at one upstream. `state` is what its last answer showed."""

    upstream: Upstream
    model: str
    weight: float = 1
    refusal_seconds: float = 0
    cold_start: ColdStart = field(default_factory=ColdStart)
    reachable: bool | None = None
    _refusals: dict[Task, tuple[UpstreamError, float]] = field(default_factory=dict)

    def note(self, task: Task, error: UpstreamError | None) -> None:
        """Remember what an answer, or the lack of one, tells about this target."""
        self.reachable = not isinstance(error, _DOWN)
        if error is not None and _is_lasting(error):
            self._refusals[task] = error, time.monotonic() + self.refusal_seconds

    def refusal(self, task: Task) -> UpstreamError | None:
        """Return what the upstream would say again: that it has no such model, or not for us.

        A client that asks on and on for a model that is not there so does not use up what the
        upstream allows the gateway.
        """
        if not self._refusals:
            return None
        error, until = self._refusals.get(task, (None, 0.0))
        return error if time.monotonic() < until else None

    @property
    def state(self) -> str:
        """`ready`, `loading`, `down`, or `cold`: not asked yet."""
        if self.cold_start.loading:
            return "loading"
        return {None: "cold", True: "ready", False: "down"}[self.reachable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of the catalogue. `defaults`: parameters for requests that leave them unset."""

    id: str
    aliases: tuple[str, ...]
    task: str
    tokenizer: str | None
    targets: tuple[Target, ...]
    cache_ttl_seconds: int
    max_tokens_default: int
    defaults: dict[str, Any]
    fingerprint: str
    vision: bool = False
    image_placeholder: str | None = None
    voices: Voices
    embedding: Embedding
    price: Price

    def pick(self) -> Target:
        """Return a target, by weight."""
        if len(self.targets) == 1:
            return self.targets[0]
        weights = [target.weight for target in self.targets]
        return random.choices(self.targets, weights)[0]  # noqa: S311 (spreads load, hides nothing)

    @property
    def state(self) -> str:
        """The best of its targets' states."""
        states = {target.state for target in self.targets}
        return next(state for state in ("ready", "cold", "loading", "down") if state in states)


class Catalog:
    """Names to models. Raises ConfigError when an upstream's credential is not there."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport) -> None:
        upstreams = {one.name: _upstream(one, transport) for one in settings.upstreams}
        self.models = tuple(_model(one, upstreams, settings.cache) for one in settings.models)
        self._by_name = {
            name: model for model in self.models for name in (model.id, *model.aliases)
        }

    def resolve(self, name: str, caller: Caller, *, task: str) -> Model:
        """Return the model that `caller` means by `name`.

        Raises BadRequest (404 `model_not_found`) for a name that is unknown or not allowed:
        the two must look alike; and for one that serves another task.
        """
        model = self.find(name, caller)
        if model is None or model.task != task:
            raise model_not_found(name)
        return model

    def find(self, name: str, caller: Caller) -> Model | None:
        """Return the model that `caller` means by `name`, None if there is none for it."""
        model = self._by_name.get(name)
        return model if model is not None and _may_use(caller, model) else None

    def visible_to(self, caller: Caller) -> Iterator[Model]:
        """Yield the models that `caller` may use."""
        return (model for model in self.models if _may_use(caller, model))


def _is_lasting(error: UpstreamError) -> bool:
    """Tell whether `error` is about the model, and stays true until someone acts."""
    return isinstance(error, ModelMissing) or (
        isinstance(error, Misconfigured) and error.status == HTTPStatus.FORBIDDEN
    )


def _may_use(caller: Caller, model: Model) -> bool:
    """Tell whether `caller` may use `model`: any of its names will do, aliases too."""
    return any(map(caller.may_use, (model.id, *model.aliases)))


def _upstream(settings: UpstreamSettings, transport: httpx.AsyncBaseTransport) -> Upstream:
    key = settings.api_key()
    scheme = AUTH_SCHEMES.get(settings.dialect, "Bearer")
    total = settings.timeout_seconds
    try:
        server = Server(
            settings.name,
            _base_url(settings),
            transport=transport,
            headers={"authorization": f"{scheme} {key}"} if key else {},
            timeouts=Timeouts(
                connect_seconds=settings.connect_timeout_seconds,
                first_byte_seconds=settings.first_byte_timeout_seconds or total,
                total_seconds=total,
            ),
        )
    except ValueError as exc:
        raise ConfigError(f"upstreams: {exc}") from None
    return Upstream(
        server, settings.dialect, settings.load_wait_seconds, settings.max_body_bytes, key
    )


def _base_url(settings: UpstreamSettings) -> str:
    """An OpenAI server given without a path is meant at `/v1`, as its SDKs' base URLs are."""
    url = settings.base_url.rstrip("/")
    return f"{url}/v1" if settings.dialect in UNDER_V1 and url.count("/") == 2 else url


def _model(settings: ModelSettings, upstreams: dict[str, Upstream], cache: Cache) -> Model:
    ttl_seconds = settings.cache_ttl_seconds
    return Model(
        id=settings.id,
        aliases=settings.aliases,
        task=settings.task,
        tokenizer=settings.tokenizer,
        targets=tuple(
            Target(
                upstreams[target.upstream],
                _name(settings, target.model),
                target.weight,
                cache.refusal_seconds,
            )
            for target in settings.targets
        ),
        cache_ttl_seconds=cache.ttl_seconds if ttl_seconds is None else ttl_seconds,
        max_tokens_default=settings.max_tokens_default,
        defaults=settings.defaults.model_dump(exclude_none=True),
        vision=settings.vision,
        image_placeholder=settings.image_placeholder,
        fingerprint="fp_" + sha256(settings.model_dump_json().encode()).hexdigest()[:12],
        voices=_voices(settings),
        embedding=settings.embedding,
        price=_price(settings.price),
    )


def _price(settings: PriceSettings) -> Price:
    return Price(
        input_tokens=nano(settings.input_usd_per_million),
        output_tokens=nano(settings.output_usd_per_million),
        characters=nano(settings.usd_per_million_characters),
        image=nano(settings.usd_per_image),
        audio_minute=nano(settings.usd_per_audio_minute),
    )


def _voices(settings: ModelSettings) -> Voices:
    names = {"voice": settings.voice_parameter, "speed": settings.speed_parameter}
    return Voices(
        named=settings.voices,
        default=settings.default_voice,
        parameter_names={name: native for name, native in names.items() if native},
    )


def _name(settings: ModelSettings, model: str | None) -> str:
    return settings.id if model is None else model
