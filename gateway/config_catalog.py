"""What the configuration says of upstreams and of the models that they serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from adapters.base import Task
from adapters.dialects import DIALECTS

MOST_TTL_SECONDS = 10 * 365 * 86_400
_SLEEPERS = ".endpoints.huggingface.cloud"
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


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Upstream(Section):
    """One server that is called."""

    # What targets, answers' headers, the ledger and metrics call it.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    dialect: str  # what it speaks
    base_url: BaseUrl  # where it is
    api_key_env: str | None = None  # the variable that has its credential
    api_key_file: Path | None = None  # the file that has it instead
    connect_timeout_seconds: Seconds = 5  # longest wait for a connection
    # Longest wait for the head of its answer. Left out: as long as the whole may take.
    first_byte_timeout_seconds: Seconds | None = None
    timeout_seconds: Seconds = 600  # longest time of one call
    # Longest wait for a model that is loading.
    load_wait_seconds: Annotated[float, Field(ge=0, le=86_400)] = 300
    # Millions of bytes that it takes in a request: images are scaled down to fit. Left out: TGI's
    # default where images are part of the prompt, else no limit.
    max_body_mb: Annotated[float, Field(gt=0, le=1024)] | None = None
    # How many calls it gets at once, from all workers together. Left out: as many as come.
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    queue_size: Annotated[int, Field(ge=0, le=100_000)] = 1000  # calls that may wait, per worker
    queue_seconds: Seconds = 10  # longest wait in the queue
    # What answers 200 while it is well, from the root of its host. It is asked while a failed
    # server is out of rotation, and all the time where `health_interval_seconds` is set.
    health_path: Annotated[str, Field(pattern=r"^/[!-~]*$")] | None = None
    health_interval_seconds: Seconds | None = None  # how often it is asked while it is well
    # Stops when idle, so that 502 and 503 mean that it is starting, and takes the header that
    # makes it hold a request until it has. Left out: as Inference Endpoints' addresses tell.
    scale_to_zero: bool | None = None

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

    @property
    def sleeps(self) -> bool:
        """Whether it stops when idle."""
        host = urlsplit(self.base_url).hostname or ""
        return host.endswith(_SLEEPERS) if self.scale_to_zero is None else self.scale_to_zero

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


class Target(Section):
    """One way to serve a model."""

    upstream: str  # the name of one of [[upstreams]]
    model: str | None = None  # the upstream's name of the model. Left out: the model's `id`
    weight: Annotated[float, Field(gt=0)] = 1  # its share of the requests, beside the others'
    priority: Annotated[int, Field(ge=0, le=100)] = 0  # lower first; others if those cannot


Usd = Annotated[float, Field(ge=0, le=1_000_000)]


class Price(Section):
    """What an answer costs: per million tokens, and what other tasks count."""

    input_usd_per_million: Usd = 0  # tokens of the prompt
    output_usd_per_million: Usd = 0  # tokens of the answer
    usd_per_image: Usd = 0  # made
    usd_per_million_characters: Usd = 0  # spoken
    usd_per_audio_minute: Usd = 0  # heard or made


class Defaults(Section):
    """Sampling parameters for requests that leave them unset, as the model's makers advise."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None  # 0: the likeliest token
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None  # of the likeliest tokens' weight
    top_k: Annotated[int, Field(ge=1)] | None = None  # of the likeliest tokens
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None  # 1: none


class Embedding(Section):
    """What an embedding model needs said of it."""

    batch_size: Annotated[int, Field(ge=1, le=2048)] = 32  # texts per call: the upstream's limit
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = ()  # lengths that clients may ask for
    matryoshka: bool = False  # trained to be cut anywhere: clients may ask for any length
    pooling: Literal["mean", "cls"] | None = None  # for upstreams that answer per token


class Model(Section):
    """A name that clients may ask for, and what it stands for."""

    # The name in `/v1/models`, the ledger and metrics.
    id: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
    aliases: tuple[str, ...] = ()  # other names that clients may use
    # What it does. `pipeline`: any other task of the native API, which is passed on as it is.
    task: Literal["chat", "image", "speech", "embedding", "transcription", "pipeline"] = "chat"
    tokenizer: str | None = None  # Hub id or folder; its chat template is applied here
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]  # what serves it
    fallbacks: tuple[str, ...] = ()  # models that answer instead when no target can, in order
    vision: bool = False  # takes images in chats, at upstreams that take prompts
    # What its chat template writes for an image. Left out: found by trying the template.
    image_placeholder: Annotated[str, Field(min_length=3, max_length=1000)] | None = None
    max_tokens_default: Annotated[int, Field(ge=1)] = 1024  # of answers that set no bound
    context_length: Annotated[int, Field(ge=1)] | None = None  # tokens of prompt and answer
    # How long its answers are kept. Left out: as [cache] says.
    cache_ttl_seconds: Annotated[int, Field(ge=0, le=MOST_TTL_SECONDS)] | None = None
    price: Price = Price()  # below
    defaults: Defaults = Defaults()  # below
    embedding: Embedding = Embedding()  # below
    voices: dict[VoiceName, VoiceName] = {}  # the client's name of a voice → the upstream's
    default_voice: VoiceName | None = None  # the upstream's; for OpenAI's names not in `voices`
    voice_parameter: ParameterName | None = None  # native. Left out: it has a single voice
    speed_parameter: ParameterName | None = None  # native. Left out: it has no choice of speed

    @model_validator(mode="after")
    def _check_speech(self) -> Self:
        names = ("voices", "default_voice", "voice_parameter", "speed_parameter")
        if self.task != "speech" and (wrong := [name for name in names if getattr(self, name)]):
            raise ValueError(f"{', '.join(wrong)}: for models of the task 'speech' only")
        return self


def _read_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
