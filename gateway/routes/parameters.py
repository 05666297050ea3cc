"""What a route is asked, checked and described: its query, and its JSON object of fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from litestar import Request
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec import Parameter as ParameterSpec
from pydantic_core import from_json

from adapters.base import Json
from gateway.errors import BadRequest
from gateway.fields import LONGEST_NAME, InvalidField, unknown_field
from gateway.wire import read_json_body

MOST_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Parameter:
    """One name of a query. `parse` takes its text and raises ValueError, which says why not."""

    name: str
    description: str
    parse: Callable[[str], Any]
    default: Any = None
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


def count(name: str, description: str, *, most: int, default: int | None = None) -> Parameter:
    """Return a parameter that takes a whole number from 1 to `most`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 20):
            raise ValueError(f"expected an integer, got {text[:LONGEST_NAME]!r}")
        if not 1 <= int(text) <= most:
            raise ValueError(f"expected an integer from 1 to {most}, got {text}")
        return int(text)

    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return Parameter(name, description, parse, default, schema)


def read_query(
    request: Request[Any, Any, Any], parameters: Sequence[Parameter] = ()
) -> dict[str, Any]:
    """Return a value for each of `parameters`. Raises InvalidField."""
    known = {parameter.name: parameter for parameter in parameters}
    values = {parameter.name: parameter.default for parameter in parameters}
    seen = set()
    for name, text in request.query_params.multi_items():
        if name not in known:
            raise unknown_field(name, known) if known else _nothing_known(name)
        if name in seen:
            raise InvalidField(name, "given twice")
        seen.add(name)
        try:
            values[name] = known[name].parse(text)
        except ValueError as exc:
            raise InvalidField(name, str(exc)) from None
    return values


async def read_fields(request: Request[Any, Any, Any]) -> Json:
    """Return the body's JSON object; no body is an empty one. Raises BadRequest, ClientGone."""
    data = await read_json_body(request.scope, request.receive, limit_bytes=MOST_BODY_BYTES)
    if not data:
        return {}
    try:
        body = from_json(data, allow_inf_nan=False)
    except ValueError:
        raise BadRequest(
            "We could not parse the JSON body of your request.", code="invalid_json"
        ) from None
    if not isinstance(body, dict):
        raise BadRequest("Invalid type for the body: expected an object.", code="invalid_type")
    return body


def page(data: Sequence[Json], limit: int | None = None) -> Json:
    """Return a list as OpenAI has them; of `data`, the one after `limit` shows that more follow."""
    return {
        "object": "list",
        "data": data[:limit],
        "has_more": limit is not None and len(data) > limit,
    }


def described(
    *, query: Sequence[Parameter] = (), body: Mapping[str, Any] | None = None
) -> type[Operation]:
    """Return how OpenAPI describes a route with this query and this JSON schema of its body."""

    @dataclass  # only so is `__post_init__` called
    class Described(Operation):
        def __post_init__(self) -> None:
            asked = [_parameter_spec(parameter) for parameter in query]
            self.parameters = [*(self.parameters or []), *asked] or None
            if body is not None:
                content = OpenAPIMediaType(schema=_as_it_is(body))
                self.request_body = RequestBody(content={"application/json": content})

    return Described


def _nothing_known(name: str) -> InvalidField:
    return InvalidField(name[:LONGEST_NAME], "unknown; there is none", code="unknown_parameter")


def _parameter_spec(parameter: Parameter) -> ParameterSpec:
    return ParameterSpec(
        name=parameter.name,
        param_in="query",
        description=parameter.description,
        required=False,
        schema=_as_it_is(parameter.schema),
    )


def _as_it_is(schema: Mapping[str, Any]) -> Schema:
    """Return a JSON schema as one of Litestar's, which renders a plain dict unchanged."""
    return cast("Schema", dict(schema))
