"""What a key or a team is given on the command line: limits, models, times, metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import reduce
from typing import Any, TypeVar

import click

from gateway.fields import dollars, parse_name
from gateway.times import parse_duration, parse_moment, parse_time

F = TypeVar("F", bound=Callable[..., Any])

_OFF, _ALL, _NEVER = "none", "all", "never"


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """What `parse` makes of the text. It raises ValueError, which says what was expected."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value. Fails naming the option."""
        try:
            return self._parse(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


def _limit(text: str) -> int | str:
    if text == _OFF:
        return text
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise ValueError(f"expected an integer of at least 0, or {_OFF}, got {text[:60]!r}")
    return int(text)


def _money(text: str) -> str:
    if text != _OFF:
        dollars(text)
    return text


def _expiry(text: str) -> str:
    if text != _NEVER:
        parse_time(text)
    return text


def _globs(text: str) -> list[str] | str:
    if text.strip() == _ALL:
        return _ALL
    globs = [glob.strip() for glob in text.split(",")]
    if not all(globs):
        raise ValueError(f"expected globs with a comma between them, or {_ALL}, got {text!r}")
    return globs


def _metadata(text: str) -> dict[str, Any]:
    from pydantic_core import from_json

    name, equals, value = text.partition("=")
    if not text.lstrip().startswith("{") and name and equals:
        return {name: value}
    try:
        given = from_json(text, allow_inf_nan=False)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise ValueError(f"expected a JSON object or NAME=VALUE, got {text[:60]!r}")
    return given


NAME = Parsed("TEXT", parse_name)
MOMENT = Parsed("TIME", lambda text: parse_moment(text, datetime.now(UTC)))
DURATION = Parsed("DURATION", parse_duration)

_LIMITS = {
    "rpm": "Requests per minute.",
    "rpm_burst": "Requests that may come at once.  [default: follows from --rpm]",
    "tpm": "Tokens per minute.",
    "tpm_burst": "Tokens that may be taken at once.  [default: follows from --tpm]",
    "concurrency": "Requests at a time.",
    "requests_per_day": "Requests per UTC day.",
    "tokens_per_day": "Tokens per UTC day.",
    "images_per_day": "Images per UTC day.",
    "speech_characters_per_day": "Characters spoken per UTC day.",
    "audio_seconds_per_day": "Seconds transcribed per UTC day.",
    "usd_per_month": "US dollars per UTC month.",
}


def limit_options(command: F) -> F:
    """Add an option for each limit."""
    count, money = Parsed("N", _limit), Parsed("AMOUNT", _money)
    options = (
        click.option(
            f"--{name.replace('_', '-')}",
            type=money if name == "usd_per_month" else count,
            help=meaning,
        )
        for name, meaning in reversed(_LIMITS.items())
    )
    return reduce(lambda made, option: option(made), options, command)


def metadata_option(command: F) -> F:
    """Add `--metadata`."""
    return click.option(
        "--metadata",
        multiple=True,
        type=Parsed("NAME=VALUE", _metadata),
        help="What else to note, or all of it as a JSON object. May be given again.",
    )(command)


def key_options(command: F) -> F:
    """Add what can be said of a key when it is made and later."""
    models = click.option(
        "--models",
        type=Parsed("GLOBS", _globs),
        help="Globs of the models it may use, with commas; all for every one.  [default: all]",
    )
    expires = click.option(
        "--expires",
        type=Parsed("TIME", _expiry),
        help="ISO date or time; UTC unless it says otherwise; never for no end.",
    )
    return models(expires(limit_options(metadata_option(command))))


def changes_given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that were given to be changed. Raises UsageError for none."""
    if not (changes := fields_given(options)):
        raise click.UsageError("Nothing to change: give one of the options.")
    return changes


def fields_given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that were given by the options of a key or a team."""
    limits = {
        name: None if options[name] == _OFF else options[name]
        for name in _LIMITS
        if options[name] is not None
    }
    fields = {"name": options.get("name"), "team": options.get("team")}
    given = {name: value for name, value in fields.items() if value is not None}
    if limits:
        given["limits"] = limits
    if options["metadata"]:
        given["metadata"] = {
            name: one for part in options["metadata"] for name, one in part.items()
        }
    if (models := options.get("models")) is not None:
        given["models"] = None if models == _ALL else models
    if (expires := options.get("expires")) is not None:
        given["expires_at"] = None if expires == _NEVER else expires
    return given
