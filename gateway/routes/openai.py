"""OpenAI's routes, all of them behind a key."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from litestar import Request, Router, get
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import Scope

from adapters.base import Json, Media, Task
from gateway.doorman import require_key
from gateway.errors import model_not_found
from gateway.exchange import Exchange
from gateway.forms import Form, read_form
from gateway.keyring import Keyring
from gateway.keys import Caller
from gateway.request_kinds import PLAIN, Kind
from gateway.requests import parse_body
from gateway.requests_audio import parse_transcription, parse_translation
from gateway.routes.front import Front
from gateway.routes.responses import responses_router
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.target import Model
from gateway.wire import read_json_body


def openai_router(
    front: Front,
    catalog: Catalog,
    keyring: Keyring,
    *others: HTTPRouteHandler | ASGIRouteHandler,
) -> Router:
    """Return the router of `/v1`, which has `others` too."""

    def json_route(kind: Kind) -> ASGIRouteHandler:
        def parse(scope: Scope, data: bytes) -> Exchange:
            return front.exchange(scope, kind.task, parse_body(kind.schema, data))

        return front.post(kind.route.removeprefix(_ROOT), parse, read_json_body)

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
        _ROOT,
        guards=[require_key(keyring)],
        route_handlers=[
            *map(json_route, PLAIN),
            form_route("/audio/transcriptions", Task.TRANSCRIPTION, parse_transcription),
            form_route("/audio/translations", Task.TRANSCRIPTION, parse_translation),
            responses_router(front),
            list_models,
            show_model,
            *others,
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


_ROOT = "/v1"
_STARTED = int(time.time())
