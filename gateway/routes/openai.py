"""OpenAI's routes, all of them behind a key."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from litestar import Request, Router, asgi, get
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import HTTPScope, Receive, Scope, Send
from pydantic import TypeAdapter

from adapters.base import Json, Media, Task
from gateway.allowances import rate_limit_headers
from gateway.cache.directives import NO_DIRECTIVES, Directives
from gateway.catalog import Catalog, Model
from gateway.doorman import require_key
from gateway.edge import REQUEST_ID
from gateway.errors import model_not_found
from gateway.exchange import Body, Exchange
from gateway.forms import Form, read_form
from gateway.keyring import Keyring
from gateway.keys import Caller
from gateway.relay import Relay
from gateway.requests import CHAT, COMPLETION, parse_body
from gateway.requests_audio import parse_transcription, parse_translation
from gateway.requests_embedding import EMBEDDING
from gateway.requests_image import IMAGE
from gateway.requests_speech import SPEECH
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

_CACHE_HEADERS = (b"cache-control", b"x-use-cache", b"if-none-match")
_MOST_NAMES, _LONGEST_NAME = 32, 64
_UNPRINTABLE = re.compile(r"[^!-+\--~]")  # all but visible ASCII, and the comma between names


def openai_router(
    relay: Relay,
    catalog: Catalog,
    keyring: Keyring,
    usage: HTTPRouteHandler,
    *,
    max_body_bytes: int,
    keep_alive_seconds: float,
    with_addresses: bool = False,
) -> Router:
    """Return the router of `/v1`. `with_addresses`: the ledger is to know the clients'."""

    async def answer_exchange(exchange: Exchange, receive: Receive, send: Send) -> None:
        with Presence(receive):
            answer = await relay(exchange)
            headers = _headers(exchange)
            if isinstance(answer, Body):
                await send_body(send, answer, headers)
                return
            try:
                await send_stream(send, answer, headers, keep_alive_seconds=keep_alive_seconds)
            finally:
                await answer.aclose()

    def json_route(path: str, task: Task, schema: TypeAdapter[Any]) -> ASGIRouteHandler:
        @asgi(path, copy_scope=False)
        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            if cast("HTTPScope", scope)["method"] != "POST":
                raise MethodNotAllowedException(headers={"allow": "POST, OPTIONS"})
            try:
                body = parse_body(
                    schema, await read_json_body(scope, receive, limit_bytes=max_body_bytes)
                )
            except ClientGone:
                return
            exchange = _exchange(scope, task, body, with_address=with_addresses)
            await answer_exchange(exchange, receive, send)

        return route

    def multipart_route(
        path: str, task: Task, parse: Callable[[Form], tuple[Json, Media]]
    ) -> ASGIRouteHandler:
        @asgi(path, copy_scope=False)
        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            if cast("HTTPScope", scope)["method"] != "POST":
                raise MethodNotAllowedException(headers={"allow": "POST, OPTIONS"})
            try:
                body, media = parse(await read_form(scope, receive, limit_bytes=max_body_bytes))
            except ClientGone:
                return
            exchange = _exchange(scope, task, body, media=media, with_address=with_addresses)
            del media  # megabytes, which the task lets go once it has made of them what is sent
            await answer_exchange(exchange, receive, send)

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
            json_route("/chat/completions", Task.CHAT, CHAT),
            json_route("/completions", Task.COMPLETION, COMPLETION),
            json_route("/images/generations", Task.IMAGE, IMAGE),
            json_route("/audio/speech", Task.SPEECH, SPEECH),
            json_route("/embeddings", Task.EMBEDDING, EMBEDDING),
            multipart_route("/audio/transcriptions", Task.TRANSCRIPTION, parse_transcription),
            multipart_route("/audio/translations", Task.TRANSCRIPTION, parse_translation),
            list_models,
            show_model,
            usage,
        ],
    )


def _exchange(
    scope: Scope, task: Task, body: Json, *, media: Media | None = None, with_address: bool
) -> Exchange:
    caller: Caller = scope["user"]
    address = cast("HTTPScope", scope)["client"] if with_address else None
    given = dict(scope["headers"])
    return Exchange(
        id=scope[REQUEST_ID],  # type: ignore[literal-required]
        task=task,
        caller=caller,
        client=address[0] if address else "",
        counts_tokens=caller.account.counts_tokens,
        body=body,
        media=media,
        wait_for_model=given.get(b"x-wait-for-model", b"").lower() not in (b"0", b"false"),
        directives=_directives(scope, given),
        is_paced=given.get(b"x-replay", b"").lower() == b"paced",
        base_url=_base_url(scope),
    )


def _directives(scope: Scope, given: Mapping[bytes, bytes]) -> Directives:
    if given.keys().isdisjoint(_CACHE_HEADERS):
        return NO_DIRECTIVES
    return Directives.parse(*(_joined(scope, name) for name in _CACHE_HEADERS))


def _joined(scope: Scope, name: bytes) -> str:
    """Return a header that is a list, which may come in several lines."""
    return ", ".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _base_url(scope: Scope) -> str:
    """Return where the client reached the gateway, by its own word, which only itself is told.

    Litestar has refused what cannot be a host. The scheme is uvicorn's, which takes a proxy's
    word for it if that is a trusted one.
    """
    host = header(scope, b"host")
    if not host:
        name, port = cast("HTTPScope", scope)["server"] or ("localhost", None)
        host = f"{name}:{port}" if port else name
    return f"{scope['scheme']}://{host}"


def _headers(exchange: Exchange) -> Headers:
    """Return what the gateway tells about how it answered."""
    pairs = [("x-dragoman-upstream-ms", str(int(exchange.upstream_ms)))]
    if exchange.snapshot:
        pairs += rate_limit_headers(exchange.caller.account, exchange.snapshot)
    if exchange.is_degraded:
        pairs.append(("x-dragoman-degraded", "quota"))
    if route := exchange.route:
        pairs.append(("x-dragoman-model", route.model.id))
        pairs.append(("x-dragoman-upstream", route.target.upstream.name))
    if found := exchange.found:
        pairs += found.headers()
    if scaled := exchange.scaled_images:
        pairs.append(("x-dragoman-scaled", f"{scaled} image{'s' if scaled > 1 else ''}"))
    if exchange.ignored:
        pairs.append(("x-dragoman-ignored", _names(exchange.ignored)))
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
