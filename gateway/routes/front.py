"""How a request becomes an exchange, and how its answer leaves: the same for every route."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar, cast

from litestar import asgi
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from adapters.base import Json, Media, Task
from gateway.access import ACCESS, Access
from gateway.admission import MeteredFrames
from gateway.allowances import rate_limit_headers
from gateway.cache.directives import NO_DIRECTIVES, Directives
from gateway.early_head import EarlyHead
from gateway.errors import GatewayError
from gateway.exchange import Body, Exchange
from gateway.keys import Caller
from gateway.text_form import OPENAI_FORM, TextForm
from gateway.waiting_room import WaitingRoom
from gateway.wire import (
    ClientGone,
    Headers,
    Presence,
    encode_headers,
    header,
    send_body,
    send_stream,
)

_CACHE_HEADERS = (b"cache-control", b"x-use-cache", b"if-none-match")
_MOST_NAMES, _LONGEST_NAME = 32, 64
_UNPRINTABLE = re.compile(r"[^!-+\--~]")  # all but visible ASCII, and the comma between names


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class BodyReader(Protocol[T_co]):
    """What reads a request's body. Raises BadRequest, ClientGone."""

    async def __call__(self, scope: Scope, receive: Receive, *, limit_bytes: int) -> T_co: ...


Answerer = Callable[[Exchange], Awaitable[Body | MeteredFrames]]
"""What answers exchanges, as the relay does. Raises GatewayError."""


class Front:
    """Takes exchanges in, and sends their answers. `with_addresses`: the ledger is to know whose.

    Request bodies are refused beyond `max_body_bytes`. Routes that ask the same relay are to share
    one front, which holds back clients that come too early.
    """

    def __init__(
        self,
        relay: Answerer,
        *,
        max_body_bytes: int,
        keep_alive_seconds: float,
        with_addresses: bool = False,
    ) -> None:
        self.max_body_bytes = max_body_bytes
        self._relay = relay
        self._keep_alive_seconds = keep_alive_seconds
        self._with_addresses = with_addresses
        self._waiting_room = WaitingRoom()

    def post(
        self, path: str, parse: Callable[[Scope, T], Exchange], read: BodyReader[T]
    ) -> ASGIRouteHandler:
        """Return the route that answers what `parse` makes of the body that `read` reads."""

        @asgi(path, copy_scope=False)
        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            if cast("HTTPScope", scope)["method"] != "POST":
                raise MethodNotAllowedException(headers={"allow": "POST, OPTIONS"})
            try:
                # Nothing here holds the body, as its megabytes are let go once something is made
                # of them.
                exchange = parse(scope, await read(scope, receive, limit_bytes=self.max_body_bytes))
            except ClientGone:
                return
            await self.answer(exchange, receive, send)

        return route

    async def answer(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        """Send what the relay has for `exchange`. Raises GatewayError, if nothing was sent yet."""
        early = EarlyHead(send, exchange, headers=_headers, seconds=self._keep_alive_seconds)
        with Presence(receive, on_notice=early.begin):
            answer = await early.wait_for(self._answered(exchange))
            if answer is None:
                return
            if early.is_sent:
                send = early.send
            headers = _headers(exchange)
            if isinstance(answer, Body):
                await send_body(send, answer, headers)
                return
            try:
                await send_stream(
                    send, answer, headers, keep_alive_seconds=self._keep_alive_seconds
                )
            finally:
                await answer.aclose()

    async def _answered(self, exchange: Exchange) -> Body | MeteredFrames:
        """Return the relay's answer, to one who comes too early not at once. Raises GatewayError.

        Nothing is reserved for a client that is held.
        """
        visitor = exchange.caller.id, exchange.model
        await self._waiting_room.enter(*visitor)
        try:
            answer = await self._relay(exchange)
        except GatewayError as error:
            self._waiting_room.note(*visitor, error)
            raise
        self._waiting_room.note(*visitor, None)
        return answer

    def exchange(
        self,
        scope: Scope,
        task: Task,
        body: Json,
        *,
        media: Media | None = None,
        form: TextForm = OPENAI_FORM,
        unheard: tuple[str, ...] = (),
    ) -> Exchange:
        """Return the exchange that a request with this body is. See `Exchange.unheard`."""
        caller: Caller = scope["user"]
        address = cast("HTTPScope", scope)["client"] if self._with_addresses else None
        given = dict(scope["headers"])
        access: Access = scope[ACCESS]  # type: ignore[literal-required]
        access.exchange = exchange = Exchange(
            id=access.id,
            task=task,
            caller=caller,
            client=address[0] if address else "",
            counts_tokens=caller.account.counts_tokens,
            body=body,
            media=media,
            form=form,
            unheard=unheard,
            wait_for_model=given.get(b"x-wait-for-model", b"").lower() not in (b"0", b"false"),
            directives=_directives(scope, given),
            is_paced=given.get(b"x-replay", b"").lower() == b"paced",
            base_url=_base_url(scope),
            trace=access.trace,
        )
        return exchange


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
    pairs += exchange.told
    if ignored := (*exchange.unheard, *exchange.ignored):
        pairs.append(("x-dragoman-ignored", _names(ignored)))
    return encode_headers(pairs)


def _names(ignored: Sequence[str]) -> str:
    """Return the names of parameters as a header can hold them: clients may invent any."""
    names = [_UNPRINTABLE.sub("?", name[:_LONGEST_NAME]) for name in ignored[:_MOST_NAMES]]
    more = len(ignored) - len(names)
    return ", ".join(names) + (f", and {more} more" if more else "")
