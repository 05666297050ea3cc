"""One answer's frames from one or several upstream streams, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from adapters.base import Json
from adapters.errors import UpstreamError
from gateway.chunks import StreamEncoder
from gateway.errors import GatewayError, from_upstream
from gateway.exchange import Exchange
from gateway.sending import Source
from gateway.usage import UsageMeter

_READS_AHEAD = 4  # per stream, while the client is slow


class AnswerStream:
    """The frames of one answer. Iterating never raises: a failure is an error event.

    Each item holds all frames of one upstream read. `[DONE]` comes only if the answer is whole.
    `is_over` turns true with the last item, so that it can leave together with the end of the
    response: SDKs hang up as soon as they read `[DONE]`. Whoever opened it closes it: what
    `exchange` used is settled by then, or with the last item.
    """

    content_type = "text/event-stream; charset=utf-8"

    def __init__(
        self,
        exchange: Exchange,
        sources: Sequence[Source],
        *,
        encoder: StreamEncoder,
        meter: UsageMeter,
    ) -> None:
        self._exchange = exchange
        self._encoder = encoder
        self._meter = meter
        self._heard = {source: meter.open(source.call, source.tokens) for source in sources}
        for source, heard in self._heard.items():
            for chunk in source.first:
                heard.add(chunk)
        self.is_over = False
        self.error: GatewayError | None = None

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield frames until the answer is whole or has failed."""
        tail = b""
        unfinished = len(self._heard)
        try:
            async for source, chunks in _merged([*self._heard]):
                tail += self._encode(source, chunks)
                unfinished -= source.is_done
                if tail and unfinished:
                    yield tail
                    tail = b""
            tail += self._encoder.end(await self._settle())
        except UpstreamError as exc:
            await self._settle()
            self.error = from_upstream(exc)
            tail += self.error.event()
        self.is_over = True
        yield tail

    async def aclose(self) -> None:
        """Close every upstream stream that is still open, and settle what came until then."""
        try:
            await asyncio.gather(*(source.aclose() for source in self._heard))
        finally:
            if not self.is_over:
                await self._settle()

    def _encode(self, source: Source, chunks: list[Json]) -> bytes:
        heard, is_new = self._heard[source], chunks is not source.first
        frames = b""
        for chunk in chunks:
            if is_new:
                heard.add(chunk)
            frames += self._encoder.encode(chunk)
        return frames

    async def _settle(self) -> Json:
        """Bring the exchange up to date, and return its usage as OpenAI's."""
        for source, heard in self._heard.items():
            heard.tokens = source.tokens
        self._exchange.finish = self._encoder.finish
        return await self._meter.settle()


async def _merged(sources: Sequence[Source]) -> AsyncIterator[tuple[Source, list[Json]]]:
    """Yield what any of `sources` reads, in order of arrival. Raises what one of them raises."""
    for source in sources:
        yield source, source.first
    if len(sources) == 1:
        async for chunks in sources[0].chunks():
            yield sources[0], chunks
        return
    queue: asyncio.Queue[tuple[Source, list[Json]] | UpstreamError | None]
    queue = asyncio.Queue(_READS_AHEAD * len(sources))

    async def pump(source: Source) -> None:
        try:
            async for chunks in source.chunks():
                await queue.put((source, chunks))
        except UpstreamError as exc:
            await queue.put(exc)
        else:
            await queue.put(None)

    pumps = [asyncio.create_task(pump(source)) for source in sources]
    try:
        streaming = len(pumps)
        while streaming:
            item = await queue.get()
            if isinstance(item, UpstreamError):
                raise item
            if item is None:
                streaming -= 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
