"""The operator's configuration: TOML, overridden by `DRAGOMAN__SECTION__KEY` and by the CLI.

Unknown keys are errors. Secrets are named (`api_key_env`, `api_key_file`), never written down.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from adapters.base import Task
from adapters.dialects import DIALECTS
from gateway.config_catalog import (
    MOST_TTL_SECONDS,
    BaseUrl,
    ConfigError,
    Model,
    Seconds,
    Section,
    Upstream,
)

__all__ = ["ENV_PREFIX", "LOCAL_UPSTREAM", "ConfigError", "Settings"]

LOCAL_UPSTREAM = "local"
ENV_PREFIX = "DRAGOMAN__"


class Server(Section):
    """Where to listen and how much to accept."""

    host: str = "127.0.0.1"  # the address to listen on; 0.0.0.0 is all of this machine's
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000  # 0: any that is free
    workers: Annotated[int, Field(ge=1, le=256)] = 1  # processes; one for each core at most
    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = 25  # longest request body
    drain_seconds: Seconds = 30  # that requests under way have left at the end
    retire_seconds: Seconds = 3600  # that requests under way have left after a reload
    keep_alive_seconds: Seconds = 15  # silence on a stream before a comment line is sent
    template_wait_seconds: Seconds = 60  # longest wait of a request for its model's template

    @property
    def max_body_bytes(self) -> int:
        """The longest request body."""
        return int(self.max_body_mb * 1024 * 1024)


class Store(Section):
    """Where things are kept; what is left out is embedded, in the data directory."""

    # Quotas, leases and the ledger's queue: a Valkey or Redis that evicts nothing and keeps an
    # append-only file. redis://, rediss:// (TLS), unix://; redis+cluster:// with several hosts.
    state: str | None = None
    cache: str | None = None  # answers only: a Valkey or Redis that may evict
    book: str | None = None  # keys, teams and the ledger: postgresql://user@host/database
    # What becomes of requests while the state store is away: limits kept by each worker for
    # itself, none, or no requests.
    on_state_outage: Literal["local", "open", "closed"] = "local"
    # Worker processes of all gateways on these stores, who share limits in an outage of the state
    # store. Left out: this gateway's own.
    expected_workers: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @field_validator("state", "cache")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None:
            from gateway.address import check_url  # which loads redis-py

            check_url(url)
        return url


class Security(Section):
    """What the gateway may do on a client's word."""

    fetch_images: bool = False  # from URLs in chats; public addresses only


class Ledger(Section):
    """What the ledger records and charges."""

    client_address: bool = False  # record the address that each request came from
    # What a request costs whose worker died: nothing, its prompt, or all that it had reserved.
    on_abandon: Literal["refund", "charge_input", "charge_all"] = "charge_input"


class Cache(Section):
    """Which answers are kept, for how long, for whom, and what they cost when they are used."""

    ttl_seconds: Annotated[int, Field(ge=0, le=MOST_TTL_SECONDS)] = 86_400  # 0: none is kept
    max_value_mb: Annotated[float, Field(gt=0, le=64)] = 4  # larger ones become files
    files_mb: Annotated[float, Field(ge=0, le=10_000_000)] = 1024  # of all files; 0: there are none
    scope: Literal["key", "team", "global"] = "key"  # who may be served whose answers
    unseeded: bool = False  # keep sampled answers that have no seed
    # What an answer costs that no upstream was asked for: nothing, its price, or a share of it.
    charge: Literal["none", "full"] | Annotated[float, Field(ge=0, le=1)] = "none"
    # How long an upstream's word is taken that it does not have a model, or not for us.
    refusal_seconds: Annotated[float, Field(ge=0, le=3600)] = 60

    @property
    def share(self) -> Fraction:
        """What part of its price an answer costs that no upstream was asked for."""
        return Fraction({"none": "0", "full": "1"}.get(str(self.charge), str(self.charge)))


class Retries(Section):
    """How often a request is tried again that failed for no fault of its own."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 3  # in all, of one request
    share: Annotated[float, Field(ge=0, le=1)] = 0.2  # of a model's requests, beyond a small burst


class Hub(Section):
    """The models of the Hugging Face Hub, by their full ids."""

    # For whoever may use any model that is all of the Hub, at the cost of the credential's
    # account. Left out: if no upstream is configured and the credential is there.
    enabled: bool | None = None
    api_key_env: str = "HF_TOKEN"  # the variable that has the credential
    # Where models are looked up, which is shown the credential. Left out: at HF_ENDPOINT, as their
    # templates are, else at huggingface.co.
    url: BaseUrl | None = None
    router_url: BaseUrl = "https://router.huggingface.co"  # where they are asked
    remember_seconds: Seconds = 3600  # what the Hub says of a model

    @property
    def address(self) -> str:
        """Where models are looked up."""
        return self.url or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"

    @property
    def has_key(self) -> bool:
        """Whether the credential is there."""
        return bool(os.environ.get(self.api_key_env, "").strip())

    def api_key(self) -> str:
        """Return the credential. Raises ConfigError when it is not there."""
        if not self.has_key:
            raise ConfigError(f"hub.api_key_env: the variable {self.api_key_env} is not set")
        return os.environ[self.api_key_env].strip()


class Metrics(Section):
    """What `/metrics` tells."""

    per_key: bool = False  # what each key uses, by its public id
    most_keys: Annotated[int, Field(ge=1, le=10_000)] = 100  # told apart; the rest are `_other`


class Logs(Section):
    """What is logged: requests on standard output, all else on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "warning"  # what is worth a line
    format: Literal["auto", "json", "text"] = "auto"  # auto: text on a terminal, else JSON
    access: bool = True  # a line for each request
    payloads: bool = False  # prompts and answers too, as far as `payload_chars`
    payload_chars: Annotated[int, Field(ge=1, le=100_000)] = 2000  # of each


class Traces(Section):
    """Spans by OpenTelemetry, which the extra `traces` installs."""

    # Where they are sent by OTLP over HTTP. Left out: where OTEL_EXPORTER_OTLP_ENDPOINT says, or
    # nowhere.
    endpoint: BaseUrl | None = None
    share: Annotated[float, Field(ge=0, le=1)] = 1  # of the requests that begin a trace here


class Settings(BaseSettings):
    """All of it."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )

    server: Server = Server()
    store: Store = Store()
    cache: Cache = Cache()
    security: Security = Security()
    ledger: Ledger = Ledger()
    retries: Retries = Retries()
    hub: Hub = Hub()
    metrics: Metrics = Metrics()
    logs: Logs = Logs()
    traces: Traces = Traces()
    upstreams: tuple[Upstream, ...] = ()
    models: tuple[Model, ...] = ()

    @property
    def is_embedded(self) -> bool:
        """Whether the local model server is the upstream, for lack of any other."""
        return not self.upstreams

    @property
    def all_workers(self) -> int:
        """How many processes share limits that each can only keep for itself."""
        return self.store.expected_workers or self.server.workers

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file (which comes in as arguments)."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _check(self) -> Self:
        if problems := list(_contradictions(self)):
            raise ValueError("\n".join(problems))
        return self


def _contradictions(settings: Settings) -> Iterator[str]:
    upstreams = [upstream.name for upstream in settings.upstreams]
    yield from (f"upstreams: {name!r} is named twice" for name in _repeated(upstreams))
    known = set(upstreams) or {LOCAL_UPSTREAM}
    names = [name for model in settings.models for name in (model.id, *model.aliases)]
    yield from (f"models: {name!r} is named twice" for name in _repeated(names))
    for model in settings.models:
        for target in model.targets:
            if target.upstream not in known:
                yield (
                    f"models.{model.id}.targets: no upstream is named {target.upstream!r}; "
                    f"expected one of {', '.join(sorted(known))}"
                )
    yield from _unsaid_voices(settings)
    yield from _idle_fallbacks(settings)


def _unsaid_voices(settings: Settings) -> Iterator[str]:
    """Yield the models of several voices that have no parameter to say which."""
    dialects = {upstream.name: DIALECTS[upstream.dialect] for upstream in settings.upstreams}
    for model in settings.models:
        voices = {*model.voices.values(), model.default_voice} - {None}
        used = (dialects.get(target.upstream, {}) for target in model.targets)
        is_native = any(Task.SPEECH in one and one[Task.SPEECH].renders for one in used)
        if is_native and len(voices) > 1 and not model.voice_parameter:
            yield f"models.{model.id}.voice_parameter: expected, as its voices differ"


def _idle_fallbacks(settings: Settings) -> Iterator[str]:
    """Yield the fallbacks that cannot stand in for their model."""
    tasks = {name: model.task for model in settings.models for name in (model.id, *model.aliases)}
    for model in settings.models:
        for name in model.fallbacks:
            if name not in tasks:
                yield f"models.{model.id}.fallbacks: no model is named {name!r}"
            elif tasks[name] != model.task or name in (model.id, *model.aliases):
                yield (
                    f"models.{model.id}.fallbacks: expected another model of the task "
                    f"{model.task!r}, not {name!r}"
                )


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
