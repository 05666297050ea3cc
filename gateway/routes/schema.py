"""The OpenAPI description of the routes that are plain ASGI, which Litestar cannot see into."""

from __future__ import annotations

from collections.abc import Mapping
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

from gateway.request_kinds import KINDS
from gateway.requests import CHAT, COMPLETION
from gateway.requests_audio import TRANSCRIPTION, TRANSLATION
from gateway.requests_embedding import EMBEDDING
from gateway.requests_image import IMAGE
from gateway.requests_speech import SPEECH
from gateway.responses.request import RESPONSES

_REF = "#/components/schemas/{model}"
_ROUTES = (
    ("/v1/chat/completions", "CreateChatCompletion", "Answer a conversation", CHAT),
    ("/v1/responses", "CreateResponse", "Answer what came so far, item by item", RESPONSES),
    ("/v1/completions", "CreateCompletion", "Continue a text", COMPLETION),
    ("/v1/images/generations", "CreateImage", "Make images of a text", IMAGE),
    ("/v1/audio/speech", "CreateSpeech", "Speak a text", SPEECH),
    ("/v1/embeddings", "CreateEmbedding", "Turn texts into vectors", EMBEDDING),
)
_FORMS = (
    ("/v1/audio/transcriptions", "CreateTranscription", "Write down a recording", TRANSCRIPTION),
    ("/v1/audio/translations", "CreateTranslation", "Write it down in English", TRANSLATION),
)
_JSON, _FORM = "application/json", "multipart/form-data"


def describe_routes(document: OpenAPI) -> None:
    """Add the routes and the schemas of their bodies to `document`."""
    paths = document.paths = document.paths or {}
    adapters: list[tuple[str, Literal["validation"], TypeAdapter[Any]]] = [
        (path, "validation", adapter) for path, _, _, adapter in (*_ROUTES, *_FORMS)
    ]
    schemas, definitions = TypeAdapter.json_schemas(adapters, ref_template=_REF)
    known = cast("dict[str, Any]", document.components.schemas)
    known.update(definitions.get("$defs", {}))
    for routes, media_type in ((_ROUTES, _JSON), (_FORMS, _FORM)):
        for path, operation_id, summary, _ in routes:
            body = _reference(schemas[path, "validation"])
            operation = _operation(operation_id, summary, body, media_type=media_type)
            paths[path] = PathItem(post=operation)
            if media_type == _FORM:
                _add_file(known[body.value])
    any_body = Schema(any_of=[_reference(schemas[path, "validation"]) for path in KINDS])
    explain = _operation("Explain", "Show what a request would become", any_body, media_type=_JSON)
    paths["/v1/explain"] = PathItem(post=explain)


def _reference(schema: Mapping[str, Any]) -> Reference:
    return Reference(ref=str(schema["$ref"]))


def _add_file(schema: dict[str, Any]) -> None:
    schema["properties"]["file"] = {"type": "string", "format": "binary"}
    schema["required"] = [*schema["required"], "file"]


def _operation(
    operation_id: str, summary: str, body: Reference | Schema, *, media_type: str
) -> Operation:
    json = OpenAPIMediaType(schema=Schema())
    return Operation(
        operation_id=operation_id,
        summary=summary,
        tags=["openai"],
        request_body=RequestBody(
            content={media_type: OpenAPIMediaType(schema=body)}, required=True
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
