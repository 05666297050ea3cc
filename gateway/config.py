"""The operator's configuration: TOML, overridden by `DRAGOMAN__SECTION__KEY` and by the CLI.

Unknown keys are errors. Secrets are named (`api_key_env`, `api_key_file`), never written down.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from adapters.base import Task
from adapters.dialects import DIALECTS

LOCAL_UPSTREAM = "local"
ENV_PREFIX = "DRAGOMAN__"
MOST_TTL_SECONDS = 10 * 365 * 86_400
_TGI_BODY_MB = 2  # text-generation-inference's `payload_limit`


def _parsable(url: str) -> str:
    _ = urlsplit(url).port  # raises ValueError, which names what is wrong
    return url


BaseUrl = Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$"), AfterValidator(_parsable)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
ParameterName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
VoiceName = Annotated[str, Field(min_length=1, max_length=200)]


class ConfigError(Exception):
    """The configuration cannot be used. `problems`: one sentence each, naming its key."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Section):
    """Where to listen and how much to accept."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = 25
    drain_seconds: Seconds = 30
    keep_alive_seconds: Seconds = 15  # silence on a stream before a comment line is sent
    template_wait_seconds: Seconds = 60  # longest wait of a request for its model's template

    @property
    def max_body_bytes(self) -> int:
        """The longest request body."""
        return int(self.max_body_mb * 1024 * 1024)


class Store(_Section):
    """Where state is kept; None means the embedded default."""

    state: str | None = None
    cache: str | None = None
    book: str | None = None
    on_state_outage: Literal["local", "open", "closed"] = "local"
    # Worker processes of all gateways on these stores, who share limits in an outage of the state
    # store. None: this gateway's own.
    expected_workers: Annotated[int, Field(ge=1, le=100_000)] | None = None


class Security(_Section):
    """What the gateway may do on a client's word."""

    fetch_images: bool = False  # from URLs in chats; public addresses only


class Ledger(_Section):
    """What the ledger records and charges."""

    client_address: bool = False
    # What a request costs whose worker died: nothing, its prompt, or all that it had reserved.
    on_abandon: Literal["refund", "charge_input", "charge_all"] = "charge_input"


class Cache(_Section):
    """Which answers are kept, for how long, for whom, and what they cost when they are used."""

    ttl_seconds: Annotated[int, Field(ge=0, le=MOST_TTL_SECONDS)] = 86_400  # 0: none is kept
    max_value_mb: Annotated[float, Field(gt=0, le=64)] = 4  # larger ones become files
    files_mb: Annotated[float, Field(ge=0, le=10_000_000)] = 1024  # of all files; 0: there are none
    scope: Literal["key", "team", "global"] = "key"
    unseeded: bool = False  # keep sampled answers that have no seed
    # What an answer costs that no upstream was asked for: nothing, its price, or a share of it.
    charge: Literal["none", "full"] | Annotated[float, Field(ge=0, le=1)] = "none"
    # How long an upstream's word is taken that it does not have a model, or not for us.
    refusal_seconds: Annotated[float, Field(ge=0, le=3600)] = 60

    @property
    def share(self) -> Fraction:
        """What part of its price an answer costs that no upstream was asked for."""
        return Fraction({"none": "0", "full": "1"}.get(str(self.charge), str(self.charge)))


class Upstream(_Section):
    """One server that is called."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    dialect: str
    base_url: BaseUrl
    api_key_env: str | None = None
    api_key_file: Path | None = None
    connect_timeout_seconds: Seconds = 5
    first_byte_timeout_seconds: Seconds | None = None  # None: as long as the whole may take
    timeout_seconds: Seconds = 600
    load_wait_seconds: Annotated[float, Field(ge=0, le=86_400)] = 300
    # Millions of bytes that it takes in a request: images are scaled down to fit. None: TGI's
    # default where images are part of the prompt, else no limit.
    max_body_mb: Annotated[float, Field(gt=0, le=1024)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dialect not in DIALECTS:
            raise ValueError(f"dialect: expected one of {', '.join(DIALECTS)}")
        if self.api_key_env and self.api_key_file:
            raise ValueError("api_key_env, api_key_file: expected one of them, not both")
        return self

    @property
    def max_body_bytes(self) -> int | None:
        """The longest body that it takes, None if that is not known."""
        chat = DIALECTS[self.dialect].get(Task.CHAT)
        megabytes = self.max_body_mb or (_TGI_BODY_MB if chat and chat.renders else None)
        return None if megabytes is None else int(megabytes * 1_000_000)

    def api_key(self) -> str | None:
        """Return the credential. Raises ConfigError when it is named but not there."""
        if self.api_key_env:
            key = os.environ.get(self.api_key_env, "").strip()
            source = f"api_key_env: the variable {self.api_key_env} is not set"
        elif self.api_key_file:
            key = _read_secret(self.api_key_file)
            source = f"api_key_file: {str(self.api_key_file)!r} cannot be read or is empty"
        else:
            return None
        if not key:
            raise ConfigError(f"upstreams.{self.name}.{source}")
        return key


class Target(_Section):
    """One way to serve a model: `model` is the upstream's name of it (default: the id)."""

    upstream: str
    model: str | None = None
    weight: Annotated[float, Field(gt=0)] = 1


Usd = Annotated[float, Field(ge=0, le=1_000_000)]


class Price(_Section):
    """What an answer costs: per million tokens, and what other tasks count."""

    input_usd_per_million: Usd = 0
    output_usd_per_million: Usd = 0
    usd_per_image: Usd = 0
    usd_per_million_characters: Usd = 0  # spoken
    usd_per_audio_minute: Usd = 0  # heard or made


class Defaults(_Section):
    """Sampling parameters for requests that leave them unset, as the model's makers advise."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None


class Embedding(_Section):
    """What an embedding model needs said of it."""

    batch_size: Annotated[int, Field(ge=1, le=2048)] = 32  # texts per call: the upstream's limit
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = ()  # lengths that clients may ask for
    matryoshka: bool = False  # trained to be cut anywhere: clients may ask for any length
    pooling: Literal["mean", "cls"] | None = None  # for upstreams that answer per token


class Model(_Section):
    """A name that clients may ask for, and what it stands for."""

    id: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
    aliases: tuple[str, ...] = ()
    task: Literal["chat", "image", "speech", "embedding", "transcription"] = "chat"
    tokenizer: str | None = None  # Hub id or folder; its chat template is applied here
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    vision: bool = False  # takes images in chats, at upstreams that take prompts
    # What its chat template writes for an image; None: found by trying the template.
    image_placeholder: Annotated[str, Field(min_length=3, max_length=1000)] | None = None
    max_tokens_default: Annotated[int, Field(ge=1)] = 1024
    context_length: Annotated[int, Field(ge=1)] | None = None
    # How long its answers are kept; None: as [cache] says.
    cache_ttl_seconds: Annotated[int, Field(ge=0, le=MOST_TTL_SECONDS)] | None = None
    price: Price = Price()
    defaults: Defaults = Defaults()
    embedding: Embedding = Embedding()
    voices: dict[VoiceName, VoiceName] = {}  # the client's name of a voice → the upstream's
    default_voice: VoiceName | None = None  # the upstream's; for OpenAI's names not in `voices`
    voice_parameter: ParameterName | None = None  # native; None: the model has a single voice
    speed_parameter: ParameterName | None = None  # native; None: it has no choice of speed

    @model_validator(mode="after")
    def _check_speech(self) -> Self:
        names = ("voices", "default_voice", "voice_parameter", "speed_parameter")
        if self.task != "speech" and (wrong := [name for name in names if getattr(self, name)]):
            raise ValueError(f"{', '.join(wrong)}: for models of the task 'speech' only")
        return self


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
    upstreams: tuple[Upstream, ...] = ()
    models: tuple[Model, ...] = ()

    @property
    def is_embedded(self) -> bool:
        """Whether the local model server is the upstream, for lack of any other."""
        return not self.upstreams

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


def _unsaid_voices(settings: Settings) -> Iterator[str]:
    """Yield the models of several voices that have no parameter to say which."""
    dialects = {upstream.name: DIALECTS[upstream.dialect] for upstream in settings.upstreams}
    for model in settings.models:
        voices = {*model.voices.values(), model.default_voice} - {None}
        used = (dialects.get(target.upstream, {}) for target in model.targets)
        is_native = any(Task.SPEECH in one and one[Task.SPEECH].renders for one in used)
        if is_native and len(voices) > 1 and not model.voice_parameter:
            yield f"models.{model.id}.voice_parameter: expected, as its voices differ"


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _read_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
