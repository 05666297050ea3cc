"""The OpenAPI description of the routes that are plain ASGI, which Litestar cannot see into."""

from __future__ import annotations

from typing import Any, Literal, cast

from litestar.openapi.spec import (
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    PathItem,
    Reference,
    RequestBody,
    Schema,
)
from pydantic import TypeAdapter

from gateway.requests import CHAT, COMPLETION

_REF = "#/components/schemas/{model}"
_ROUTES = (
    ("/v1/chat/completions", "CreateChatCompletion", "Answer a conversation", CHAT),
    ("/v1/completions", "CreateCompletion", "Continue a text", COMPLETION),
)


def describe_text_routes(document: OpenAPI) -> None:
    """Add the text routes and the schemas of their bodies to `document`."""
    paths = document.paths = document.paths or {}
    adapters: list[tuple[str, Literal["validation"], TypeAdapter[Any]]] = [
        (path, "validation", adapter) for path, _, _, adapter in _ROUTES
    ]
    schemas, definitions = TypeAdapter.json_schemas(adapters, ref_template=_REF)
    known = cast("dict[str, Any]", document.components.schemas)
    known.update(definitions.get("$defs", {}))
    for path, operation_id, summary, _ in _ROUTES:
        reference = str(schemas[path, "validation"]["$ref"])
        paths[path] = PathItem(post=_operation(operation_id, summary, Reference(ref=reference)))


def _operation(operation_id: str, summary: str, body: Reference) -> Operation:
    json = OpenAPIMediaType(schema=Schema())
    return Operation(
        operation_id=operation_id,
        summary=summary,
        tags=["openai"],
        request_body=RequestBody(
            content={"application/json": OpenAPIMediaType(schema=body)}, required=True
        ),
        responses={
            "200": OpenAPIResponse(
                description="The answer, or its events if `stream` is true",
                content={"application/json": json, "text/event-stream": json},
            ),
            "default": OpenAPIResponse(
                description='{"error": {"message", "type", "param", "code"}}',
                content={"application/json": json},
            ),
        },
    )
