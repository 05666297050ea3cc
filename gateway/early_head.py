"""The head of a stream that leaves before there is a stream: while its model is loading."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from adapters.base import Task
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.wire import Headers, KeepAlive, stream_head

if TYPE_CHECKING:
    from litestar.types import Message, Send

_EVENTS = "text/event-stream; charset=utf-8"
_TEXTS = frozenset({Task.CHAT, Task.COMPLETION})
_TOLD_IN_EVENTS = _TEXTS | {Task.IMAGE, Task.TRANSCRIPTION}

T = TypeVar("T")


class EarlyHead:
    """Sends the 200 of a stream, then comments, to a client that waits for a model to load.

    It is sent after `seconds` of silence; from then on a failure is an event. Of anything but a
    stream nothing is sent before the answer is there: a status cannot be taken back.
    """

    def __init__(
        self,
        send: Send,
        exchange: Exchange,
        *,
        headers: Callable[[Exchange], Headers],
        seconds: float,
    ) -> None:
        self.is_sent = False
        self._send = send
        self._exchange = exchange
        self._headers = headers
        self._seconds = seconds
        self._is_over = not (exchange.is_stream and exchange.task in _TOLD_IN_EVENTS)
        self._alive: KeepAlive | None = None

    def begin(self) -> None:
        """Count the silence from now on: most answers are there before, and never pay for it."""
        if not self._is_over:
            self._alive = KeepAlive(self._comment, self._seconds)
            self._alive.__enter__()

    async def wait_for(self, answer: Awaitable[T]) -> T | None:
        """Return the answer, None if its failure was told by an event. Raises GatewayError."""
        try:
            return await answer
        except GatewayError as error:
            self._end()
            if not self.is_sent:
                raise
            await self._send(_last(_failure(self._exchange, error)))
            return None
        finally:
            self._end()

    async def send(self, message: Message) -> None:
        """Send what belongs to the answer, without its head if that has left."""
        if not self.is_sent or message["type"] != "http.response.start":
            await self._send(message)

    def _end(self) -> None:
        self._is_over = True
        if self._alive:
            self._alive.__exit__()

    async def _comment(self, message: Message) -> None:
        """Send a comment, after the head. Without reason to wait nothing is sent."""
        if not self.is_sent:
            route = self._exchange.route
            if route is None or not route.target.cold_start.loading:
                return
            await self._send(stream_head(_EVENTS, self._headers(self._exchange)))
            self.is_sent = True
        await self._send(message)


def _failure(exchange: Exchange, error: GatewayError) -> bytes:
    """Return the events that tell of a failure before anything else was told."""
    route = exchange.route
    if exchange.task not in _TEXTS or route is None:
        return error.event()
    encoder = exchange.form.encoder(exchange.head(route.model), choices=1, body=exchange.body)
    return encoder.fail(error)


def _last(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": False}
