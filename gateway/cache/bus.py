"""How workers reach each other: every one listens on a channel of its own in the cache store.

What is published while a worker is not subscribed is lost, and its sender is told so by the number
of receivers. Nothing is kept here; whoever needs an answer waits for it himself.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import Callable
from typing import Any

from gateway.cache.messages import Message, encode, parse
from gateway.store import Store, StoreError
from gateway.subscription import subscribe

_PATIENCE_SECONDS = 1.0  # so long nothing may come before the server is asked; then once more
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_OF_SERVER = b"PUBLISH", b"SUBSCRIBE"
# On a cluster those would reach all servers, and count only who listens at the sender's.
_OF_SHARD = b"SPUBLISH", b"SSUBSCRIBE"

logger = logging.getLogger(__name__)

Receive = Callable[[Any], None]


class Bus:
    """One worker's channel, subscribed to again whenever the connection was lost.

    `is_up`: what is sent to us now arrives. `ignored`: how many messages were none of ours.
    """

    def __init__(
        self,
        store: Store,
        *,
        worker_id: str,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """Connect to nothing yet. `store` sends, and knows where to listen; close it later."""
        self.worker_id = worker_id
        self.ignored = 0
        self._store = store
        self._patience_seconds = patience_seconds
        self._words = _OF_SHARD if store.is_cluster else _OF_SERVER
        self._up = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether the channel is subscribed to, as far as is known now."""
        return self._up.is_set()

    def open(self, receive: Receive, *, on_down: Callable[[], None]) -> None:
        """Begin to listen. `receive` gets each message; `on_down`: some may have been lost."""
        self._listening = asyncio.get_running_loop().create_task(self._listen(receive, on_down))

    async def wait_until_up(self) -> None:
        """Return once the channel is subscribed to."""
        await self._up.wait()

    def send(self, worker_id: str, message: Message) -> Future[int]:
        """Publish a message and return the future number of receivers: 0 if the worker is gone.

        Messages that are sent without an await in between arrive in this order. The future
        raises StoreError.
        """
        return self._store.call(self._words[0], _channel(worker_id), encode(message))

    async def aclose(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def _listen(self, receive: Receive, on_down: Callable[[], None]) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._subscribe(receive)
            except (StoreError, OSError) as error:
                level = logging.WARNING if self.is_up else logging.DEBUG  # once for each loss
                logger.log(level, "the cache store's channel is lost: %s", error)
            if self.is_up:
                pause_seconds = _FIRST_PAUSE_SECONDS
                self._up.clear()
                on_down()
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    async def _subscribe(self, receive: Receive) -> None:
        """Receive until the connection is lost. Raises StoreError, OSError."""
        channel = _channel(self.worker_id)
        address = await self._store.address_of(channel)
        listening = subscribe(
            address, (self._words[1], channel), patience_seconds=self._patience_seconds
        )
        async with listening as subscription:
            self._up.set()
            while True:
                self._hand_on(await subscription.next(), receive)

    def _hand_on(self, data: bytes, receive: Receive) -> None:
        try:
            message = parse(data)
        except ValueError:
            self.ignored += 1
        else:
            receive(message)


def _channel(worker_id: str) -> str:
    return f"flights:{worker_id}"
