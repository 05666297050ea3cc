"""OpenAI's routes, all of them behind a key."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from litestar import Request, Router, get
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import Scope
from pydantic import TypeAdapter

from adapters.base import Json, Media, Task
from gateway.doorman import require_key
from gateway.errors import model_not_found
from gateway.exchange import Exchange
from gateway.forms import Form, read_form
from gateway.keyring import Keyring
from gateway.keys import Caller
from gateway.requests import CHAT, COMPLETION, parse_body
from gateway.requests_audio import parse_transcription, parse_translation
from gateway.requests_embedding import EMBEDDING
from gateway.requests_image import IMAGE
from gateway.requests_speech import SPEECH
from gateway.routes.front import Front
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.target import Model
from gateway.wire import read_json_body


def openai_router(
    front: Front, catalog: Catalog, keyring: Keyring, usage: HTTPRouteHandler
) -> Router:
    """Return the router of `/v1`."""

    def json_route(path: str, task: Task, schema: TypeAdapter[Any]) -> ASGIRouteHandler:
        def parse(scope: Scope, data: bytes) -> Exchange:
            return front.exchange(scope, task, parse_body(schema, data))

        return front.post(path, parse, read_json_body)

    def form_route(
        path: str, task: Task, parse_form: Callable[[Form], tuple[Json, Media]]
    ) -> ASGIRouteHandler:
        def parse(scope: Scope, form: Form) -> Exchange:
            body, media = parse_form(form)
            return front.exchange(scope, task, body, media=media)

        return front.post(path, parse, read_form)

    @get("/models")
    async def list_models(request: Request[Caller, Any, Any]) -> Json:
        """List the models that the key may use."""
        models = catalog.visible_to(request.user)
        return {"object": "list", "data": [_model(model) for model in models]}

    @get("/models/{model_id:path}")
    async def show_model(model_id: FromPath[str], request: Request[Caller, Any, Any]) -> Json:
        """Show one model, by its id or an alias."""
        name = model_id.strip("/")
        model = catalog.find(name, request.user)
        if model is None:
            raise model_not_found(name)
        return _model(model)

    return Router(
        "/v1",
        guards=[require_key(keyring)],
        route_handlers=[
            json_route("/chat/completions", Task.CHAT, CHAT),
            json_route("/completions", Task.COMPLETION, COMPLETION),
            json_route("/images/generations", Task.IMAGE, IMAGE),
            json_route("/audio/speech", Task.SPEECH, SPEECH),
            json_route("/embeddings", Task.EMBEDDING, EMBEDDING),
            form_route("/audio/transcriptions", Task.TRANSCRIPTION, parse_transcription),
            form_route("/audio/translations", Task.TRANSCRIPTION, parse_translation),
            list_models,
            show_model,
            usage,
        ],
    )


def _model(model: Model) -> Json:
    return {
        "id": model.id,
        "object": "model",
        "created": _STARTED,
        "owned_by": model.id.partition("/")[0] if "/" in model.id else "dragoman",
        "dragoman": {
            "task": model.task,
            "upstreams": [target.upstream.name for target in model.targets],
            "state": model.state,
            "aliases": list(model.aliases),
        },
    }


_STARTED = int(time.time())
