"""Images that leave as they are ready, each as an event of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from adapters.errors import UpstreamError
from gateway.errors import GatewayError, from_upstream


class ImageStream:
    """The events of images as they are ready. Iterating never raises: a failure is an event.

    Each of `makers` returns the frames of its images. When the stream is closed they end, and then
    comes `close`.
    """

    content_type = "text/event-stream; charset=utf-8"

    def __init__(
        self, makers: Sequence[asyncio.Task[bytes]], *, close: Callable[[], Awaitable[None]]
    ) -> None:
        self._pending = set(makers)
        self._close = close
        self._ready: list[bytes] = []
        self._failure: GatewayError | UpstreamError | None = None
        self.is_over = False
        self.error: GatewayError | None = None

    async def open(self) -> None:
        """Wait for the first images. Raises GatewayError, UpstreamError: no event was sent yet."""
        await self._wait()
        if self._failure and not self._ready:
            raise self._failure

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield frames until all images are there, or one has failed."""
        while not self.is_over:
            if not self._ready:
                await self._wait()
            frames, self._ready = self._ready, []
            if self._failure:
                self.error = _told_to_client(self._failure)
                frames.append(self.error.event())
                await self.aclose()
            self.is_over = not self._pending
            yield b"".join(frames)

    async def aclose(self) -> None:
        """End what is still being made."""
        for maker in self._pending:
            maker.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        self._pending = set()
        await self._close()

    async def _wait(self) -> None:
        done, self._pending = await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)
        for maker in done:
            try:
                self._ready.append(maker.result())
            except (GatewayError, UpstreamError) as exc:
                self._failure = exc


def _told_to_client(error: GatewayError | UpstreamError) -> GatewayError:
    return error if isinstance(error, GatewayError) else from_upstream(error)
