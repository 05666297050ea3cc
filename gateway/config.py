"""The operator's configuration: TOML, overridden by `DRAGOMAN__SECTION__KEY` and by the CLI.

Unknown keys are errors. Secrets are named (`api_key_env`, `api_key_file`), never written down.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from adapters.dialects import DIALECTS

LOCAL_UPSTREAM = "local"
_ENV_PREFIX = "DRAGOMAN__"
_TOKENIZERS = Path(__file__).parent.parent / "adapters" / "local" / "tokenizers"


def _parsable(url: str) -> str:
    _ = urlsplit(url).port  # raises ValueError, which names what is wrong
    return url


BaseUrl = Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$"), AfterValidator(_parsable)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


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


class Cache(_Section):
    """Which answers are kept, for how long, and for whom."""

    ttl_seconds: Annotated[int, Field(ge=0)] = 86_400
    max_value_mb: Annotated[float, Field(gt=0)] = 4
    scope: Literal["key", "team", "global"] = "key"
    unseeded: bool = False


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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dialect not in DIALECTS:
            raise ValueError(f"dialect: expected one of {', '.join(DIALECTS)}")
        if self.api_key_env and self.api_key_file:
            raise ValueError("api_key_env, api_key_file: expected one of them, not both")
        return self

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


class Price(_Section):
    """What an answer costs."""

    input_usd_per_million: Annotated[float, Field(ge=0)] = 0
    output_usd_per_million: Annotated[float, Field(ge=0)] = 0


class Defaults(_Section):
    """Sampling parameters for requests that leave them unset, as the model's makers advise."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None


class Model(_Section):
    """A name that clients may ask for, and what it stands for."""

    id: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
    aliases: tuple[str, ...] = ()
    task: Literal["chat", "image", "speech", "embedding", "transcription"] = "chat"
    tokenizer: str | None = None  # Hub id or folder; its chat template is applied here
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    max_tokens_default: Annotated[int, Field(ge=1)] = 1024
    context_length: Annotated[int, Field(ge=1)] | None = None
    price: Price = Price()
    defaults: Defaults = Defaults()


class Settings(BaseSettings):
    """All of it."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=_ENV_PREFIX, env_nested_delimiter="__"
    )

    server: Server = Server()
    store: Store = Store()
    cache: Cache = Cache()
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


def load(path: Path | None, *, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of the file at `path` (None: all defaults).

    `overrides` are `[server]` keys given on the command line; they win over all else. Raises
    ConfigError naming every key that is wrong.
    """
    _check_variables()
    try:
        settings = Settings(**_read_file(path))
        server = settings.server.model_dump() | dict(overrides or {})
        return settings.model_copy(update={"server": Server(**server)})
    except ValidationError as exc:
        raise ConfigError(*_problems(exc)) from None


def with_local_upstream(settings: Settings, base_url: str) -> Settings:
    """Return `settings` with the local model server and its models, where nothing is configured."""
    if not settings.is_embedded:
        return settings
    local = Upstream(name=LOCAL_UPSTREAM, dialect="hf", base_url=base_url)
    chat = Model(
        id="HuggingFaceTB/SmolLM2-135M-Instruct",
        aliases=("local-chat",),
        tokenizer=str(_TOKENIZERS / "SmolLM2-135M-Instruct"),
        targets=(Target(upstream=LOCAL_UPSTREAM),),
        max_tokens_default=512,
        context_length=4096,
        defaults=Defaults(temperature=0.2, top_p=0.9, repetition_penalty=1.1),
    )
    return settings.model_copy(update={"upstreams": (local,), "models": (chat, *settings.models)})


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


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _read_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or 'cannot be read'}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not TOML: {exc}") from None
    # Those with an underscore are settings of pydantic-settings itself.
    if strange := [key for key in values if key.startswith("_")]:
        raise ConfigError(*(_unknown_key([key]) for key in strange))
    return values


def _check_variables() -> None:
    """Refuse variables that pydantic-settings passes over, or fails on without naming them."""
    names = [name for name in os.environ if name.startswith(_ENV_PREFIX)]
    if problems := [problem for name in names if (problem := _problem_of_variable(name))]:
        raise ConfigError(*problems)


def _problem_of_variable(name: str) -> str | None:
    section, *keys = name[len(_ENV_PREFIX) :].lower().split("__")
    if section not in Settings.model_fields:
        return f"{name}: no such section; expected one of {', '.join(Settings.model_fields)}"
    if not keys and not _is_json(os.environ[name]):
        return f"{name}: expected JSON, or one variable for each key ({name}__KEY)"
    return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _problems(exc: ValidationError) -> list[str]:
    problems = []
    found = exc.errors(include_url=False)
    places = [error["loc"] for error in found]
    for error in found:
        loc = error["loc"]
        if any(place[: len(loc)] == loc != place for place in places):
            continue  # pydantic counts only an array's valid items: the others are told already
        key = ".".join(map(str, loc))
        if error["type"] == "extra_forbidden":
            problems.append(_unknown_key(loc))
        else:
            message = error["msg"].removeprefix("Value error, ")
            problems += [f"{key}: {line}" if key else line for line in message.splitlines()]
    return problems


def _unknown_key(place: Sequence[int | str]) -> str:
    """Return the problem of a key that is not expected at `place`, with those that are."""
    section: type[BaseModel] = Settings
    for step in place[:-1]:
        if isinstance(step, str):
            section = _section_in(section.model_fields[step].annotation)
    key = ".".join(map(str, place))
    return f"{key}: unknown key; expected one of {', '.join(section.model_fields)}"


def _section_in(annotation: Any) -> type[BaseModel]:
    """Return the section that a field's type is, or is a tuple of."""
    while get_args(annotation):
        annotation = get_args(annotation)[0]
    section: type[BaseModel] = annotation
    return section


def _read_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
