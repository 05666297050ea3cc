"""A request's bytes as text-generation-inference reads them: types only, ranges come later.

The server that this imitates is written with serde, whose type errors are answers of their own
(plain text, 422); the wording is serde's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.local.problems import Unreadable

_U32, _U64, _I32 = 2**32 - 1, 2**64 - 1, 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """TGI's `parameters`, of the right types. `grammar` is a `(type, value)` pair."""

    adapter_id: str | None = None
    best_of: int | None = None
    decoder_input_details: bool = False
    details: bool = False
    do_sample: bool = False
    frequency_penalty: float | None = None
    grammar: tuple[str, Any] | None = None
    max_new_tokens: int | None = None
    repetition_penalty: float | None = None
    return_full_text: bool | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_k: int | None = None
    top_n_tokens: int | None = None
    top_p: float | None = None
    truncate: int | None = None
    typical_p: float | None = None
    watermark: bool = False


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """The body of a generation. Without `parameters` it samples; with them, only if they say so."""

    inputs: str
    parameters: Parameters
    stream: bool = False


def parse_request(body: bytes, *, content_type: str) -> GenerateRequest:
    """Return the request in `body`. Raises Unreadable."""
    fields = parse_object(body, content_type=content_type)
    return GenerateRequest(
        inputs=_required_string(fields, "inputs"),
        parameters=_parameters(fields),
        stream=_boolean(fields["stream"], "stream") if "stream" in fields else False,
    )


def parse_inputs(body: bytes, *, content_type: str) -> str:
    """Return the `inputs` in `body`, whatever else it holds. Raises Unreadable."""
    return _required_string(parse_object(body, content_type=content_type), "inputs")


def parse_object(body: bytes, *, content_type: str) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises Unreadable."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Unreadable("Expected request with `Content-Type: application/json`", status=415)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"Failed to parse the request body as JSON: {error}"
        raise Unreadable(message, status=400) from None
    if not isinstance(value, dict):
        raise _mismatch("", value, "struct CompatGenerateRequest")
    return value


def _parameters(fields: Mapping[str, Any]) -> Parameters:
    if "parameters" not in fields:
        return Parameters(do_sample=True)
    given = fields["parameters"]
    if not isinstance(given, dict):
        raise _mismatch("parameters", given, "struct GenerateParameters")
    read = {
        name: reader(given[name], f"parameters.{name}")
        for name, reader in _READERS.items()
        if name in given
    }
    return Parameters(**read)


def _required_string(fields: Mapping[str, Any], name: str) -> str:
    if name not in fields:
        raise _unreadable("", f"missing field `{name}`")
    return _string(fields[name], name)


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _mismatch(path, value, "a string")
    return value


def _boolean(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _mismatch(path, value, "a boolean")
    return value


def _strings(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _mismatch(path, value, "a sequence")
    return tuple(_string(item, f"{path}[{place}]") for place, item in enumerate(value))


def _float(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _mismatch(path, value, "f32")
    if not math.isfinite(value):
        raise _unreadable(path, "number out of range")
    return float(value)


def _integer(name: str, *, low: int, high: int) -> Callable[[Any, str], int]:
    def read(value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _mismatch(path, value, name)
        if not low <= value <= high:
            raise _unreadable(path, f"invalid value: integer `{value}`, expected {name}")
        return value

    return read


def _grammar(value: Any, path: str) -> tuple[str, Any]:
    if not isinstance(value, dict):
        raise _mismatch(path, value, "adjacently tagged enum GrammarType")
    for name in ("type", "value"):
        if name not in value:
            raise _unreadable(path, f"missing field `{name}`")
    kind = _string(value["type"], f"{path}.type")
    kind = "json" if kind == "json_object" else kind
    if kind not in ("json", "regex", "json_schema"):
        known = "one of `json`, `regex`, `json_schema`"
        raise _unreadable(f"{path}.type", f"unknown variant `{kind}`, expected {known}")
    content = value["value"]
    if kind == "regex":
        _string(content, f"{path}.value")
    if kind == "json_schema":
        _schema_config(content, f"{path}.value")
    return kind, content


def _schema_config(value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise _mismatch(path, value, "struct JsonSchemaConfig")
    if "schema" not in value:
        raise _unreadable(path, "missing field `schema`")


def _optional(reader: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, path: None if value is None else reader(value, path)


_unsigned_32 = _optional(_integer("u32", low=0, high=_U32))
_unsigned_64 = _optional(_integer("u64", low=0, high=_U64))
_size = _optional(_integer("usize", low=0, high=_U64))
_number = _optional(_float)

_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "adapter_id": _optional(_string),
    "best_of": _size,
    "decoder_input_details": _boolean,
    "details": _boolean,
    "do_sample": _boolean,
    "frequency_penalty": _number,
    "grammar": _optional(_grammar),
    "max_new_tokens": _unsigned_32,
    "repetition_penalty": _number,
    "return_full_text": _optional(_boolean),
    "seed": _unsigned_64,
    "stop": _strings,
    "temperature": _number,
    "top_k": _optional(_integer("i32", low=-_I32 - 1, high=_I32)),
    "top_n_tokens": _unsigned_32,
    "top_p": _number,
    "truncate": _size,
    "typical_p": _number,
    "watermark": _boolean,
}


def _mismatch(path: str, value: Any, expected: str) -> Unreadable:
    return _unreadable(path, f"invalid type: {_describe(value)}, expected {expected}")


def _unreadable(path: str, message: str) -> Unreadable:
    place = f"{path}: " if path else ""
    return Unreadable(f"Failed to deserialize the JSON body into the target type: {place}{message}")


def _describe(value: Any) -> str:
    """Return serde's name for a JSON value of the wrong type."""
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{value}"'
        case list():
            return "sequence"
        case _:
            return "map"
