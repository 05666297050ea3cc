"""The native API's routes, all of them behind a key, as `/v1` is.

Errors under them have the native form: see `gateway.native.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import msgspec
from litestar import Request, Router, asgi, get
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.handlers import ASGIRouteHandler
from litestar.params import FromPath
from litestar.types import HTTPScope, Receive, Scope, Send
from pydantic import TypeAdapter

from adapters.base import Json, Task
from adapters.native_calls import Operation
from gateway.doorman import require_key
from gateway.errors import BadRequest, GatewayError
from gateway.exchange import Body, Exchange
from gateway.keyring import Keyring
from gateway.keys import Caller
from gateway.native import views
from gateway.native.address import Address, parse_address
from gateway.native.form import MessagesForm, NativeForm
from gateway.native.request import NativeRequest, parse_native
from gateway.native.tokens import Tokenize
from gateway.requests import CHAT, COMPLETION, parse_body
from gateway.routes.front import Front
from gateway.text_form import OPENAI_FORM
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.target import Model
from gateway.wire import ClientGone, header, read_body, send_body

_MOUNTS = ("/models", "/pipeline", "/hf-inference")
_OPENAI: Mapping[str, tuple[Task, TypeAdapter[Any]]] = MappingProxyType(
    {"v1/chat/completions": (Task.CHAT, CHAT), "v1/completions": (Task.COMPLETION, COMPLETION)}
)
_STAND_INS = frozenset({"", "tgi", "dummy"})
"""What clients call a model whose name is in the URL: huggingface_hub, TGI's own examples."""
_MESSAGES = MessagesForm()


def native_router(front: Front, catalog: Catalog, keyring: Keyring, tokenize: Tokenize) -> Router:
    """Return the router of all that the native API has beside `/v1`."""

    async def look(address: Address, caller: Caller) -> Body:
        model = await catalog.look_up(address.model, caller)
        if address.ending == "health":
            if not views.is_healthy(model):
                raise GatewayError("unhealthy", status=503, code="unhealthy")
            return Body(b"", "text/plain")
        return Body(msgspec.json.encode(views.info(model)))

    async def take(scope: Scope, receive: Receive, send: Send, address: Address) -> None:
        """Answer a POST to a model. Raises GatewayError, ClientGone."""
        data = await read_body(scope, receive, limit_bytes=front.max_body_bytes)
        if address.ending in _OPENAI:
            exchange = _openai_exchange(front, scope, address, data)
        else:
            model = await catalog.look_up(address.model, scope["user"])
            asked = _asked(scope, address, data)
            if address.ending == "tokenize":
                await send_body(send, Body(await tokenize(asked, model)), [])
                return
            exchange = _native_exchange(front, scope, model, address.model, asked)
        del data
        await front.answer(exchange, receive, send)

    def mounted(prefix: str) -> ASGIRouteHandler:
        # A mount: Litestar 2 finds no plain ASGI route that has parameters in its path.
        @asgi(prefix, is_mount=True, copy_scope=False)
        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            method, path = cast("HTTPScope", scope)["method"], scope["path"]
            address = parse_address(prefix + path)
            if address is None:
                raise NotFoundException
            scope["path_template"] = address.template
            if method == "GET" and address.is_view:
                await send_body(send, await look(address, scope["user"]), [])
            elif method == "POST" and address.takes_bodies:
                with suppress(ClientGone):
                    await take(scope, receive, send, address)
            else:
                raise MethodNotAllowedException(headers={"allow": address.allowed})

        return route

    return Router(
        "/",
        guards=[require_key(keyring)],
        route_handlers=[*map(mounted, _MOUNTS), *_views(catalog)],
    )


def _views(catalog: Catalog) -> list[Any]:
    """Return the routes that tell of models, and whose key it is."""

    @get("/status/{model_id:path}", include_in_schema=False)
    async def status(model_id: FromPath[str], request: Request[Caller, Any, Any]) -> Json:
        return views.status(await catalog.look_up(model_id.strip("/"), request.user))

    @get("/framework/{name:str}", include_in_schema=False)
    async def framework(name: FromPath[str], request: Request[Caller, Any, Any]) -> list[Json]:
        visible = catalog.visible_to(request.user)
        return [views.listed(model) for model in visible if views.is_of(model, name)]

    @get("/api/whoami-v2", include_in_schema=False)
    async def whoami(request: Request[Caller, Any, Any]) -> Json:
        return views.whoami(request.user)

    return [status, framework, whoami]


def _asked(scope: Scope, address: Address, data: bytes) -> NativeRequest:
    """Return what a POST asks. Raises BadRequest."""
    is_operation = address.ending in (Operation.GENERATE, Operation.GENERATE_STREAM)
    return parse_native(
        data,
        content_type=header(scope, b"content-type"),
        accept=header(scope, b"accept"),
        operation=Operation(address.ending) if is_operation else Operation.PREDICT,
        pipeline=address.pipeline,
    )


def _native_exchange(
    front: Front, scope: Scope, model: Model, name: str, asked: NativeRequest
) -> Exchange:
    """Return the exchange of a native request. Headers win over the options of the body."""
    task = Task.COMPLETION if model.task == "chat" else Task(model.task)
    if task is not Task.COMPLETION and asked.operation is not Operation.PREDICT:
        raise BadRequest(
            f"The model {model.id!r} is for {model.task}, not for {asked.operation}.",
            code="unsupported_task",
        )
    is_text = task is Task.COMPLETION
    body = {"model": name, "stream": is_text and asked.asks_stream}
    form = NativeForm.of(asked) if is_text else OPENAI_FORM
    exchange = front.exchange(scope, task, body, form=form)
    exchange.native = asked
    waits, uses_cache = asked.option("wait_for_model"), asked.option("use_cache")
    if waits is not None and not header(scope, b"x-wait-for-model"):
        exchange.wait_for_model = waits
    if uses_cache is False and not header(scope, b"x-use-cache"):
        exchange.directives = replace(exchange.directives, bypass=True, is_forwarded=True)
    return exchange


def _openai_exchange(front: Front, scope: Scope, address: Address, data: bytes) -> Exchange:
    """Return the exchange of one of OpenAI's bodies, for the model that the path names.

    A body that names another model means that one: clients choose a LoRA so.
    """
    task, schema = _OPENAI[address.ending]
    body = parse_body(schema, _with_model(data, address.model))
    return front.exchange(scope, task, body, form=_MESSAGES)


def _with_model(data: bytes, model: str) -> bytes:
    """Return a body that names its model; what is no object is left to `parse_body`."""
    try:
        body = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        given = msgspec.json.decode(body.get("model", b"null"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data
    if given is None or (isinstance(given, str) and _stands_for_path(given)):
        return msgspec.json.encode({**body, "model": model})
    return data


def _stands_for_path(name: str) -> bool:
    return name in _STAND_INS or name.startswith(("http://", "https://"))
