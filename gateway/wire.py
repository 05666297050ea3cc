"""The client's side of an exchange on raw ASGI: reading a body, sending an answer or a stream.

The hot routes are plain ASGI: measured against Litestar's own handlers they halve the cost of a
request, and a stream's frames go out without a task group of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gateway.admission import MeteredFrames
from gateway.errors import BadRequest
from gateway.exchange import Body

if TYPE_CHECKING:
    from litestar.types import Message, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]

_BODY_SECONDS = 60.0
_NOTICE_SECONDS = 0.25  # most requests end before, and never pay for being watched
_A_DAY = 86_400.0
_KEEP_ALIVE = b": keep-alive\n"  # one newline: a blank line would end an event


class ClientGone(Exception):
    """The client hung up before its request was whole."""


def header(scope: Scope, name: bytes) -> str:
    """Return the first header of that (lower-case) name, or an empty string."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def read_json_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytes:
    """Return the request's body. Raises as `read_body`, and 415 for another content type."""
    content_type = header(scope, b"content-type").partition(";")[0].strip().lower()
    if content_type and content_type != "application/json" and not content_type.endswith("+json"):
        raise BadRequest(
            f"Unsupported content type: {content_type[:80]!r}. Send the body as application/json.",
            status=415,
            code="unsupported_content_type",
        )
    return await read_body(scope, receive, limit_bytes=limit_bytes)


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytes:
    """Return the request's body, of whatever type.

    Raises BadRequest for a body over the limit (413) or one that takes over a minute to come
    (408); ClientGone.
    """
    length = header(scope, b"content-length")
    if length.isdecimal() and int(length) > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await _receive_body(receive, limit_bytes)
    except TimeoutError:
        raise BadRequest(
            "The request's body did not arrive in time.", status=408, code="request_timeout"
        ) from None


async def send_body(send: Send, body: Body, headers: Headers) -> None:
    """Send a whole answer."""
    head = headers
    if body.status != 304:  # RFC 9110, 15.4.5: it has no content, and says nothing of its form
        length = (b"content-length", b"%d" % len(body.data))
        head = [(b"content-type", body.content_type.encode("latin-1")), length, *headers]
    await send({"type": "http.response.start", "status": body.status, "headers": head})
    await send({"type": "http.response.body", "body": body.data, "more_body": False})


async def send_stream(
    send: Send, answer: MeteredFrames, headers: Headers, *, keep_alive_seconds: float
) -> None:
    """Send an answer's frames as they come, and comments while no events come.

    It is settled before its last frame leaves.
    """
    await send(stream_head(answer.content_type, headers))
    is_events = answer.content_type.startswith("text/event-stream")
    with KeepAlive(send, keep_alive_seconds if is_events else _A_DAY) as alive:
        async for frames in answer.frames():
            alive.touch()
            is_over = answer.is_over
            if is_over:
                await answer.settle()
            await send({"type": "http.response.body", "body": frames, "more_body": not is_over})


def stream_head(content_type: str, headers: Headers) -> Message:
    """Return the head of an answer that leaves in pieces."""
    head = [
        (b"content-type", content_type.encode("latin-1")),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
        *headers,
    ]
    return {"type": "http.response.start", "status": 200, "headers": head}


class Presence:
    """Cancels the block inside when the client leaves, and lets the cancellation end there.

    `receive` is listened to only after a quarter of a second, when `on_notice` is called too. The
    request must have been read.
    """

    def __init__(self, receive: Receive, *, on_notice: Callable[[], None] | None = None) -> None:
        self._receive = receive
        self._on_notice = on_notice
        self._watcher: asyncio.Task[None] | None = None
        self.left = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a coroutine runs in one)
        self._task = task
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_NOTICE_SECONDS, self._start_watching)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._timer.cancel()
        if self._watcher:
            self._watcher.cancel()
        if not self.left:
            return False
        self._task.uncancel()
        return kind is asyncio.CancelledError

    def _start_watching(self) -> None:
        self._watcher = asyncio.create_task(self._watch())
        if self._on_notice:
            self._on_notice()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self._task.cancel()


class KeepAlive:
    """Sends a comment whenever nothing was sent for `seconds`, one at a time."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._sending: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self.touch()
        self._timer = self._loop.call_later(self._seconds, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._sending:
            self._sending.cancel()

    def touch(self) -> None:
        """Note that something is being sent."""
        self._touched_at = self._loop.time()

    def _tick(self) -> None:
        silence = self._loop.time() - self._touched_at
        if silence >= self._seconds:
            silence = 0.0
            if self._sending is None or self._sending.done():
                self._sending = self._loop.create_task(self._comment())
        self._timer = self._loop.call_later(self._seconds - silence, self._tick)

    async def _comment(self) -> None:
        self.touch()
        await self._send({"type": "http.response.body", "body": _KEEP_ALIVE, "more_body": True})


def encode_headers(pairs: Iterable[tuple[str, str]]) -> Headers:
    """Return headers as ASGI has them; what latin-1 cannot say is left out."""
    headers = []
    for name, value in pairs:
        with suppress(UnicodeEncodeError):
            headers.append((name.encode("latin-1"), value.encode("latin-1")))
    return headers


async def _receive_part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


async def _receive_body(receive: Receive, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        part, more = await _receive_part(receive)
        size += len(part)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        parts.append(part)
    return b"".join(parts)


def _too_large(limit_bytes: int) -> BadRequest:
    return BadRequest(
        f"The request's body is over the limit of {limit_bytes} bytes.",
        status=413,
        code="request_too_large",
    )
