"""Reading the configuration: a TOML file, variables and the command line, checked together."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gateway.config import ENV_PREFIX, ConfigError, Server, Settings


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


def _read_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or 'cannot be read'}") from None
    except (ValueError, RecursionError) as exc:  # tomllib's own, of bytes, of digits, of depth
        raise ConfigError(f"{path}: not TOML: {exc}") from None
    # Those with an underscore are settings of pydantic-settings itself.
    if strange := [key for key in values if key.startswith("_")]:
        raise ConfigError(*(_unknown_key([key]) for key in strange))
    return values


def _check_variables() -> None:
    """Refuse variables that pydantic-settings passes over, or fails on without naming them."""
    names = [name for name in os.environ if name.startswith(ENV_PREFIX)]
    if problems := [problem for name in names if (problem := _problem_of_variable(name))]:
        raise ConfigError(*problems)


def _problem_of_variable(name: str) -> str | None:
    section, *keys = name[len(ENV_PREFIX) :].lower().split("__")
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
            section = section_in(section.model_fields[step].annotation)
    key = ".".join(map(str, place))
    return f"{key}: unknown key; expected one of {', '.join(section.model_fields)}"


def section_in(annotation: Any) -> type[BaseModel]:
    """Return the section that a field's type is, or is a tuple of."""
    while get_args(annotation):
        annotation = get_args(annotation)[0]
    section: type[BaseModel] = annotation
    return section
