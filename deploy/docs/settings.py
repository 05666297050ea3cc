"""The page of all settings: of the models that check them, and the comments at their fields."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from adapters.dialects import DIALECTS
from gateway.config import Settings
from gateway.config_catalog import Section
from gateway.config_file import section_in

_DIALECTS = ", ".join(f"`{name}`" for name in DIALECTS)

_HEAD = """\
# Settings

The configuration is TOML: `dragoman serve --config FILE`. A setting of a section can also be given
as a variable, which wins over the file: `DRAGOMAN__SERVER__PORT=9000` is `port` of `[server]`. An
unknown key is an error that names it. `dragoman check --config FILE` tells what is wrong without
serving.

*Made from `gateway/config.py` by `make docs`.*
"""


def page() -> str:
    """Return it."""
    return "\n".join([_HEAD, *_sections(Settings)])


def _sections(settings: type[BaseModel]) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        section = section_in(field.annotation)
        is_list = str(field.annotation).startswith("tuple")
        yield from _section(section, f"[[{name}]]" if is_list else f"[{name}]")


def _section(section: type[BaseModel], title: str) -> Iterator[str]:
    """Yield the table of one section, then those of the sections in it."""
    yield f"## {title}\n\n{_sentence(inspect.getdoc(section) or '')}\n"
    yield "| key | value | default | |\n|---|---|---|---|"
    schema = section.model_json_schema()
    comments = comments_of(section)
    inner = []
    for name, field in section.model_fields.items():
        part = _inner_section(field.annotation)
        value = _DIALECTS if name == "dialect" else _value(schema["properties"][name], schema)
        default = "*needed*" if field.is_required() else "" if part else _shown(field.default)
        yield f"| `{name}` | {value} | {default} | {_sentence(comments.get(name, ''))} |"
        if part:
            inner.append((part, f"{title.strip('[]')}.{name}"))
    yield ""
    for part, name in inner:
        yield from _section(part, name)


def _inner_section(annotation: Any) -> type[BaseModel] | None:
    found = section_in(annotation)
    return found if isinstance(found, type) and issubclass(found, Section) else None


def comments_of(section: type[BaseModel]) -> Mapping[str, str]:
    """Return what the comments above each field, and behind it, say."""
    source = inspect.getsource(section)
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in comments and lines[first - 2].lstrip().startswith("#"):
                first -= 1
            places = range(first, (node.end_lineno or 0) + 1)
            found[node.target.id] = " ".join(comments[at] for at in places if at in comments)
    return found


def _value(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """Return what a value may be, in words."""
    if "$ref" in schema:
        return _value(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in schema:
        kinds = [_value(one, whole) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(kinds)
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    match schema.get("type"):
        case "array":
            return "list: " + _value(schema["items"], whole)
        case "object":
            return "table"
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number" as kind:
            return kind + _range(schema)
        case _:
            return {"path": "file"}.get(schema.get("format", ""), "text")


def _range(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    low = f"above {above:g}" if above is not None else f"{least:g}" if least is not None else ""
    if most is None:
        return f", {low}" + (" or more" if above is None else "") if low else ""
    return f", {low} to {most:,.10g}" if low else f", up to {most:,.10g}"


def _shown(default: Any) -> str:
    if default is None or default == () or default == {}:
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _sentence(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text[:1].upper() + text[1:]
