"""Upstreams and models, built from what the configuration says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from types import MappingProxyType
from urllib.parse import urljoin

import httpx

from adapters.dialects import AUTH_SCHEMES, UNDER_V1
from adapters.http import Timeouts
from adapters.http import Upstream as Server
from gateway.config import Settings
from gateway.config_catalog import ConfigError
from gateway.config_catalog import Model as ModelSettings
from gateway.config_catalog import Price as PriceSettings
from gateway.config_catalog import Upstream as UpstreamSettings
from gateway.prices import Price, nano
from gateway.upstreams.coldstart import ColdStart, Watches, alone
from gateway.upstreams.gate import Gate
from gateway.upstreams.retry_budget import RetryBudget
from gateway.upstreams.target import Model, Target, Upstream
from gateway.upstreams.watcher import NOBODY, Watcher
from gateway.voices import Voices

_HEALTH_PATHS = MappingProxyType({"tgi": "/health", "tei": "/health"})
"""What a dialect's servers tell their health at, where it is always the same."""

_OF_HEALTH = Timeouts(connect_seconds=2, first_byte_seconds=2, total_seconds=2)


def build_upstream(
    settings: UpstreamSettings,
    transport: httpx.AsyncBaseTransport,
    *,
    workers: int,
    watches: Watches = alone,
    watcher: Watcher = NOBODY,
    scheme: str | None = None,
) -> Upstream:
    """Return the upstream, whose calls are limited for all `workers` together.

    `watches`: how these let each other know of models that are loading. `watcher`: who is told of
    calls. `scheme`: how it is shown its credential, if not as its dialect's servers are. Raises
    ConfigError when that is not there.
    """
    key, url = settings.api_key(), _base_url(settings)
    scheme = scheme or AUTH_SCHEMES.get(settings.dialect, "Bearer")
    total = settings.timeout_seconds
    server_at = partial(
        Server,
        settings.name,
        transport=transport,
        headers={"authorization": f"{scheme} {key}"} if key else {},
    )
    timeouts = Timeouts(
        connect_seconds=settings.connect_timeout_seconds,
        first_byte_seconds=settings.first_byte_timeout_seconds or total,
        total_seconds=total,
    )
    try:
        server = server_at(url, timeouts=timeouts)
        root = server_at(urljoin(url, "/"), timeouts=_OF_HEALTH)
    except ValueError as exc:
        raise ConfigError(f"upstreams: {exc}") from None
    limit = settings.max_concurrency
    return Upstream(
        server,
        settings.dialect,
        settings.load_wait_seconds,
        settings.max_body_bytes,
        key,
        timeout_seconds=total,
        gate=Gate(
            settings.name,
            limit=None if limit is None else math.ceil(limit / workers),
            queue_size=settings.queue_size,
            queue_seconds=settings.queue_seconds,
        ),
        health_path=settings.health_path or _health_path(settings),
        health_interval_seconds=settings.health_interval_seconds,
        is_cold_by_status=settings.sleeps,
        cold_start=lambda model: ColdStart(watches(f"{url} {model}"), is_held=settings.sleeps),
        root=root,
        watcher=watcher,
    )


def _health_path(settings: UpstreamSettings) -> str | None:
    """A server that sleeps would be woken by being asked how it is."""
    return None if settings.sleeps else _HEALTH_PATHS.get(settings.dialect)


def _base_url(settings: UpstreamSettings) -> str:
    """An OpenAI server given without a path is meant at `/v1`, as its SDKs' base URLs are."""
    url = settings.base_url.rstrip("/")
    return f"{url}/v1" if settings.dialect in UNDER_V1 and url.count("/") == 2 else url


def build_model(
    settings: ModelSettings, upstreams: Mapping[str, Upstream], gateway: Settings
) -> Model:
    """Return the model, whose targets are at `upstreams`."""
    cache = gateway.cache
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
                target.priority,
                cache.refusal_seconds,
            )
            for target in settings.targets
        ),
        fallbacks=settings.fallbacks,
        retries=RetryBudget(gateway.retries.share),
        cache_ttl_seconds=cache.ttl_seconds if ttl_seconds is None else ttl_seconds,
        max_tokens_default=settings.max_tokens_default,
        context_length=settings.context_length,
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
