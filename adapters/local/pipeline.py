"""What the tasks beside text generation share on the wire: `inputs`, `parameters` and headers.

Each task declares the parameters that it has as a table of readers. One that is null is not
given; one that is not in the table is refused, because it would change nothing in silence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.local.answer import COMPUTE_TYPE
from adapters.local.problems import Invalid, Malformed

Reader = Callable[[Any, str], Any]


@dataclass(frozen=True, slots=True)
class Payload:
    """A request's `inputs`, not yet looked at, and its parameters as their readers made them."""

    inputs: Any
    parameters: Mapping[str, Any]


def parse_payload(
    body: bytes, readers: Mapping[str, Reader], *, also_at_root: bool = False
) -> Payload:
    """Return the payload in `body`. Raises Malformed or Invalid.

    With `also_at_root`, parameters may stand beside `inputs` too; `parameters` wins.
    """
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"The body is not JSON: {error}") from None
    if not isinstance(fields, dict) or "inputs" not in fields:
        raise Malformed("The body must be a JSON object with `inputs`")
    nested = fields.get("parameters")
    given = {name: fields[name] for name in readers if name in fields} if also_at_root else {}
    given |= mapping({} if nested is None else nested, "parameters")
    return Payload(fields["inputs"], read(given, readers))


def read(given: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """Return the `given` values, read and without nulls. Raises Malformed or Invalid."""
    for name in given:
        if name not in readers:
            known = ", ".join(f"`{known}`" for known in readers)
            raise Malformed(f"`{name}` is not a parameter of this model; it has {known}")
    return {name: readers[name](value, name) for name, value in given.items() if value is not None}


def mapping(value: Any, name: str) -> dict[str, Any]:
    """Return `value` if it is a JSON object. Raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed(f"`{name}` must be an object")
    return value


def boolean(value: Any, name: str) -> bool:
    """Return `value` if it is one. Raises Malformed."""
    if not isinstance(value, bool):
        raise Malformed(f"`{name}` must be true or false")
    return value


def string(*, longest: int) -> Reader:
    """Return a reader of texts that say something, of up to `longest` characters."""

    def read_string(value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise Malformed(f"`{name}` must be a string")
        if not value.strip():
            raise Invalid(f"`{name}` cannot be empty")
        if len(value) > longest:
            raise Invalid(f"`{name}` must be <= {longest} characters. Given: {len(value)}")
        return value

    return read_string


def integer(low: int, high: int, *, step: int = 1) -> Reader:
    """Return a reader of multiples of `step` from `low` to `high`."""

    def read_integer(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Malformed(f"`{name}` must be an integer")
        if not low <= value <= high:
            raise Invalid(f"`{name}` must be >= {low} and <= {high}. Given: {value}")
        if value % step:
            raise Invalid(f"`{name}` must be a multiple of {step}. Given: {value}")
        return value

    return read_integer


def number(low: float, high: float) -> Reader:
    """Return a reader of numbers from `low` to `high`."""

    def read_number(value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Malformed(f"`{name}` must be a number")
        if not (math.isfinite(value) and low <= value <= high):
            raise Invalid(f"`{name}` must be >= {low} and <= {high}. Given: {value}")
        return float(value)

    return read_number


def choice(*known: str) -> Reader:
    """Return a reader of one of some words, in lower or upper case."""

    def read_choice(value: Any, name: str) -> str:
        for word in known:
            if isinstance(value, str) and value.lower() == word.lower():
                return word
        words = " or ".join(f"{word!r}" for word in known)
        raise Malformed(f"`{name}` must be {words}: this model has no other")

    return read_choice


def headers(started_at: float, **facts: object) -> Mapping[str, str]:
    """Return the headers of an answer to a request that came at `started_at`, in perf_counter's
    seconds; `facts` are further headers, with `_` for `-`.
    """
    return {
        "x-compute-type": COMPUTE_TYPE,
        "x-compute-time": f"{time.perf_counter() - started_at:.6f}",
        **{name.replace("_", "-"): str(value) for name, value in facts.items()},
    }
