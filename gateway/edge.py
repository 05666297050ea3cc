"""What holds for every response, whoever makes it: id, timing, CORS, one slash at a time.

Raw ASGI, around the whole application: Litestar's own middleware does not see the router's 404
and 405.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gateway.access import ACCESS, Access, Observer

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

_SLASHES = re.compile(r"/{2,}")
_EXPOSED = (
    b"x-request-id, retry-after, retry-after-ms, x-should-retry, openai-processing-ms, "
    b"x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, "
    b"x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens, "
    b"x-dragoman-cache, x-dragoman-model, x-dragoman-upstream, x-dragoman-upstream-ms, "
    b"x-dragoman-ignored, x-dragoman-scaled, x-dragoman-degraded, age, etag"
)
CORS = ((b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED))
_METHODS = b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"


class Edge:
    """Wraps an ASGI application, and tells `observers` of each request but browsers' OPTIONS.

    These come before there is a key to show.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Observer] = ()) -> None:
        self._app = app
        self._observers = observers

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access = Access(uuid7(), scope["method"])
        head = ((b"x-request-id", access.id.encode()), *CORS)

        async def send_with_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                access.status = message["status"]
                spent = int((time.perf_counter() - access.began) * 1000)
                timing = (b"openai-processing-ms", b"%d" % spent)
                message["headers"] = [*message["headers"], *head, timing]
                await send(message)
                return
            await send(message)
            if message["type"] == "http.response.body":
                access.note_sent(message["body"])
                access.is_complete = not message["more_body"]

        if scope["method"] == "OPTIONS":
            await _preflight(scope, send_with_head)
            return
        scope[ACCESS] = access
        if "//" in scope["path"]:
            scope["path"] = _SLASHES.sub("/", scope["path"])
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        for observer in self._observers:
            _tell(observer.began, access, scope)
        try:
            await self._app(scope, receive, send_with_head)
        finally:
            self._end(access, scope)

    def _end(self, access: Access, scope: Any) -> None:
        access.seconds = time.perf_counter() - access.began
        access.route = scope.get("path_template", "")
        for observer in self._observers:
            _tell(observer.ended, access, scope)


def _tell(hear: Callable[[Access, Any], None], access: Access, scope: Any) -> None:
    """Let an observer hear. If it fails nobody else is to suffer: its log line or count is lost."""
    try:
        hear(access, scope)
    except Exception:
        logger.exception("a request is not fully counted, logged or traced")


def uuid7() -> str:
    """Return a fresh UUID of version 7: they sort by time (RFC 9562 §5.7)."""
    drawn = int.from_bytes(secrets.token_bytes(10))  # at once: it is a system call
    value = time.time_ns() // 1_000_000 << 80 | drawn
    value = value & ~(0xF << 76 | 0b11 << 62) | 0x7 << 76 | 0b10 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


async def _preflight(scope: Scope, send: Send) -> None:
    wanted = (
        value for name, value in scope["headers"] if name == b"access-control-request-headers"
    )
    headers = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", next(wanted, b"*")),
        (b"access-control-max-age", b"86400"),
        (b"allow", _METHODS),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
