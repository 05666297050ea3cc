"""What may be said of a key or a team: one check for each field, on the API and the command line.

A check takes the field's name and what was given, and returns what the book is to keep.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, Protocol

from gateway.limits import Limits
from gateway.times import parse_time

Check = Callable[[str, Any], Any]

LONGEST_NAME = 200
MOST_METADATA_BYTES = 16 * 1024
MOST_GLOBS = 100
LIMITS = tuple(limit.name for limit in fields(Limits))

_SHOWN_NAMES = 20  # of the models that a wrong glob might have meant
_DOLLARS = re.compile(r"\d{1,20}(\.\d{1,20})?", re.ASCII)
_NANO = Decimal("1e-9")
_TYPES = {str: "a string", bool: "a boolean", int: "an integer", float: "a decimal"}


class InvalidField(Exception):
    """A field cannot be what it was given as. `problem` says what was expected, as a clause."""

    def __init__(self, field: str, problem: str, *, code: str = "invalid_value") -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem
        self.code = code


class Named(Protocol):
    """A model, of the settings or of the catalogue."""

    @property
    def id(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


def model_names(models: Collection[Named]) -> tuple[str, ...]:
    """Return the ids and the aliases, in order."""
    return tuple(name for model in models for name in (model.id, *model.aliases))


def model_id(name: str | None, models: Collection[Named]) -> str | None:
    """Return the id of the model that has this name, else the name: it may be one of the past."""
    ids = (model.id for model in models if name in model.aliases)
    return next(ids, name)


def check_fields(given: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return the fields of `given` as the book keeps them. Raises InvalidField for the first."""
    for name in given:
        if name not in checks:
            raise unknown_field(name, checks)
    return {name: checks[name](name, value) for name, value in given.items()}


def unknown_field(name: str, known: Collection[str]) -> InvalidField:
    """Return the refusal of a field that there is not."""
    problem = f"unknown; expected one of {', '.join(known)}"
    return InvalidField(name[:LONGEST_NAME], problem, code="unknown_parameter")


def parse_name(text: str) -> str:
    """Return a name or an id, without the space around it. Raises ValueError for what is none."""
    name = text.strip()
    if not 1 <= len(name) <= LONGEST_NAME:
        raise ValueError(f"expected 1 to {LONGEST_NAME} characters, got {len(name) or 'none'}")
    if not name.isprintable():  # half a surrogate pair and NUL, which no database keeps, are not
        raise ValueError("expected characters that can be printed")
    return name


def check_name(field: str, value: Any) -> str:
    """Return a name without the space around it: 1 to 200 characters that can be printed."""
    if not isinstance(value, str):
        raise _wrong_type(field, "a string", value)
    try:
        return parse_name(value)
    except ValueError as exc:
        raise InvalidField(field, str(exc)) from None


def check_team_name(field: str, value: Any) -> str:
    """Return a name that can be one step of a path."""
    name = check_name(field, value)
    if "/" in name or name in (".", ".."):
        raise InvalidField(field, f"expected a name without '/', got {name!r}")
    return name


def check_globs(names: Collection[str], *, with_hub: bool = False) -> Check:
    """Return the check of what a key may use: globs that match some of `names`, None for all.

    `with_hub`: what is of the form `owner/name` may be the Hub's, whose models nobody can list.
    """

    def check(field: str, value: Any) -> tuple[str, ...] | None:
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(isinstance(glob, str) for glob in value):
            raise _wrong_type(field, "an array of strings", value)
        if len(value) > MOST_GLOBS:
            raise InvalidField(field, f"expected at most {MOST_GLOBS} globs, got {len(value)}")
        for glob in value:
            check_name(field, glob)
            if not (with_hub and "/" in glob):
                _check_match(field, glob, names)
        return tuple(value)

    return check


def check_limits(field: str, value: Any) -> dict[str, int | Decimal | None]:
    """Return limits by name, None for those that are to be off; `limits_of` checks the rest."""
    if value is None:
        return dict.fromkeys(LIMITS)
    if not isinstance(value, Mapping):
        raise _wrong_type(field, "an object", value)
    for name in value:
        if name not in LIMITS:
            raise unknown_field(f"{field}.{name}", [f"{field}.{known}" for known in LIMITS])
    return {
        name: None if limit is None else _check_limit(f"{field}.{name}", limit)
        for name, limit in value.items()
    }


def limits_of(values: Mapping[str, int | Decimal | None]) -> Limits:
    """Return the limits that are on. Raises InvalidField for one that is out of range."""
    on: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    with limits_checked():
        return Limits(**on)


@contextmanager
def limits_checked() -> Iterator[None]:
    """Turn what `Limits` refuses inside into InvalidField."""
    try:
        yield
    except ValueError as exc:
        name, _, problem = str(exc).partition(": ")
        raise InvalidField(f"limits.{name}", problem) from None


def check_metadata(field: str, value: Any) -> dict[str, Any]:
    """Return an object that is at most 16 KiB as JSON; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong_type(field, "an object", value)
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:
        raise InvalidField(field, "expected text in Unicode and finite numbers") from None
    if size > MOST_METADATA_BYTES:
        raise InvalidField(field, f"expected at most {MOST_METADATA_BYTES} bytes, got {size}")
    return value


def check_expiry(now: Callable[[], float]) -> Check:
    """Return the check of when a key ends: a time to come as ISO 8601, None for never."""

    def check(field: str, value: Any) -> int | None:
        if value is None:
            return None
        if not isinstance(value, str):
            raise _wrong_type(field, "a string (ISO 8601)", value)
        try:
            seconds = int(parse_time(value).timestamp())
        except ValueError as exc:
            raise InvalidField(field, str(exc)) from None
        if seconds <= now():
            raise InvalidField(field, f"expected a time to come, got {value!r}")
        return seconds

    return check


def dollars(value: Any) -> Decimal:
    """Return an amount of US dollars, given as a number or as text. Raises ValueError."""
    # The shortest text of a float is the number that was written.
    text = format(Decimal(repr(value)), "f") if type(value) in (int, float) else value
    if not isinstance(text, str) or not _DOLLARS.fullmatch(text):
        raise ValueError("expected US dollars as a number or text, of at least 0")
    amount = Decimal(text)
    if amount < 10**12 and amount.quantize(_NANO) != amount:
        raise ValueError("expected at most 9 decimals")
    return amount


def _check_match(field: str, glob: str, names: Collection[str]) -> None:
    if any(fnmatchcase(name, glob) for name in names):
        return
    known = [*names][:_SHOWN_NAMES]
    more = f" and {len(names) - len(known)} more" if len(names) > len(known) else ""
    raise InvalidField(
        field, f"{glob!r} matches no model; the models are {', '.join(known) or 'none'}{more}"
    )


def _check_limit(field: str, value: Any) -> int | Decimal:
    if field.endswith(".usd_per_month"):
        try:
            return dollars(value)
        except ValueError as exc:
            raise InvalidField(field, str(exc)) from None
    if type(value) is not int:  # a boolean is an int to isinstance
        raise _wrong_type(field, "an integer", value)
    if value.bit_length() > 64:
        raise InvalidField(field, "expected a smaller integer")
    return value


def _wrong_type(field: str, expected: str, value: Any) -> InvalidField:
    given = "null" if value is None else _TYPES.get(type(value), "an array")
    given = "an object" if isinstance(value, Mapping) else given
    return InvalidField(field, f"expected {expected}, got {given}", code="invalid_type")
