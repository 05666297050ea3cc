"""OpenAI's routes, all of them behind a key."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, cast

from litestar import Request, Router, asgi, get
from litestar.connection import ASGIConnection
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler
from litestar.handlers.base import BaseRouteHandler
from litestar.params import FromPath
from litestar.types import Guard, HTTPScope, Receive, Scope, Send
from pydantic import TypeAdapter

from adapters.base import Json, Task
from gateway.catalog import Catalog, Model
from gateway.edge import REQUEST_ID
from gateway.errors import Unauthenticated, model_not_found
from gateway.keys import Caller, InvalidKey, Keyring
from gateway.relay import Exchange, Relay
from gateway.requests import CHAT, COMPLETION, parse_body
from gateway.wire import (
    ClientGone,
    Headers,
    Presence,
    encode_headers,
    header,
    read_json_body,
    send_body,
    send_stream,
)

_MOST_NAMES, _LONGEST_NAME = 32, 64
_UNPRINTABLE = re.compile(r"[^!-+\--~]")  # all but visible ASCII, and the comma between names
_REFUSALS = {
    "missing": "You didn't provide an API key. Send it as 'Authorization: Bearer sk-dm_…'.",
    "malformed": "Incorrect API key provided: it is not a whole Dragoman key (sk-dm_…).",
    "unknown": "Incorrect API key provided.",
    "expired": "This API key has expired.",
    "revoked": "This API key has been revoked.",
}


def openai_router(
    relay: Relay,
    catalog: Catalog,
    keyring: Keyring,
    *,
    max_body_bytes: int,
    keep_alive_seconds: float,
) -> Router:
    """Return the router of `/v1`."""

    def text_route(path: str, task: Task, schema: TypeAdapter[Any]) -> ASGIRouteHandler:
        @asgi(path, copy_scope=False)
        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            if cast("HTTPScope", scope)["method"] != "POST":
                raise MethodNotAllowedException(headers={"allow": "POST, OPTIONS"})
            try:
                data = await read_json_body(scope, receive, limit_bytes=max_body_bytes)
            except ClientGone:
                return
            exchange = _exchange(scope, task, parse_body(schema, data))
            with Presence(receive):
                answer = await relay(exchange)
                headers = _headers(exchange)
                if isinstance(answer, bytes):
                    await send_body(send, answer, headers)
                    return
                try:
                    await send_stream(send, answer, headers, keep_alive_seconds=keep_alive_seconds)
                finally:
                    await answer.aclose()

        return route

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
            text_route("/chat/completions", Task.CHAT, CHAT),
            text_route("/completions", Task.COMPLETION, COMPLETION),
            list_models,
            show_model,
        ],
    )


def require_key(keyring: Keyring) -> Guard:
    """Return the guard that puts the key's owner into `scope["user"]`, or answers 401."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        scope = connection.scope
        key = _key_of(scope)
        try:
            scope["user"] = keyring.cached(key) or await keyring.authenticate(key)
        except InvalidKey as exc:
            raise Unauthenticated(
                _REFUSALS[exc.reason],
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            ) from None

    return guard


def _key_of(scope: Scope) -> str:
    """Return the key, wherever the client's dialect puts it: OpenAI's, Azure's, Anthropic's."""
    scheme, _, key = header(scope, b"authorization").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return header(scope, b"api-key") or header(scope, b"x-api-key")


def _exchange(scope: Scope, task: Task, body: Json) -> Exchange:
    return Exchange(
        id=scope[REQUEST_ID],  # type: ignore[literal-required]
        task=task,
        caller=scope["user"],
        body=body,
        wait_for_model=header(scope, b"x-wait-for-model").lower() not in ("0", "false"),
    )


def _headers(exchange: Exchange) -> Headers:
    """Return what the gateway tells about how it answered."""
    pairs = [("x-dragoman-upstream-ms", str(int(exchange.upstream_ms)))]
    if route := exchange.route:
        pairs.append(("x-dragoman-model", route.model.id))
        pairs.append(("x-dragoman-upstream", route.target.upstream.name))
        if route.plan.ignored:
            pairs.append(("x-dragoman-ignored", _names(route.plan.ignored)))
    return encode_headers(pairs)


def _names(ignored: Sequence[str]) -> str:
    """Return the names of parameters as a header can hold them: clients may invent any."""
    names = [_UNPRINTABLE.sub("?", name[:_LONGEST_NAME]) for name in ignored[:_MOST_NAMES]]
    more = len(ignored) - len(names)
    return ", ".join(names) + (f", and {more} more" if more else "")


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
