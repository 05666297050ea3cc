"""The native API's `grammar` parameter as llguidance, the constraint engine inside llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.local.problems import Invalid

_SCHEMA_OPTIONS = {"whitespace_pattern": "[ ]?"}  # what TGI's own compiler allows between tokens


@dataclass(frozen=True, slots=True)
class Grammar:
    """A rule that the output must follow; `rule` is one llguidance expression."""

    rule: str

    def source(self, *, mark: str = "") -> str:
        """Return a whole grammar, with `mark` required before what the rule describes."""
        prefix = f'"{mark}" ' if mark else ""
        return f"%llguidance {{}}\nstart: {prefix}{self.rule}\n"


def parse_grammar(kind: str, value: Any) -> Grammar:
    """Return the grammar of a `{"type": kind, "value": value}`. Raises Invalid."""
    match kind:
        case "regex":
            return Grammar(_regex_rule(value))
        case "json_schema":
            return Grammar(_json_rule(value["schema"]))
        case _:
            return Grammar(_json_rule(value))


def _regex_rule(pattern: str) -> str:
    escaped = pattern.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n")
    return f"/{escaped}/"


def _json_rule(value: Any) -> str:
    schema = _read_schema(value)
    if "properties" not in schema:
        raise Invalid("grammar is not valid: Grammar must have a 'properties' field")
    closed = {**_close(schema), "x-guidance": _SCHEMA_OPTIONS}
    return f"%json {msgspec.json.encode(closed).decode()}"


def _read_schema(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise Invalid(f"grammar is not valid: {error}") from None
    if not isinstance(value, dict):
        raise Invalid("grammar is not supported")
    return value


def _close(schema: Any) -> Any:
    """Return `schema` with objects that hold their `properties` only, as TGI compiles them."""
    if isinstance(schema, list):
        return [_close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _close(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed
