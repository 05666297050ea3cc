"""One answer's frames from one or several tapes, as their pieces come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from adapters.base import Call, Json
from adapters.errors import Interrupted, UpstreamError
from gateway.errors import GatewayError, from_upstream
from gateway.exchange import Exchange
from gateway.folding import chunks_of
from gateway.tapes import Piece, Tape, close_all, open_all
from gateway.text_form import TextEncoder
from gateway.usage import UsageMeter

_READS_AHEAD = 4  # per tape, while the client is slow


class Reader:
    """Reads the tape of one call's text; `meter` gets to know all that comes."""

    def __init__(self, tape: Tape, call: Call, meter: UsageMeter) -> None:
        self.is_done = False
        self._pieces = tape.pieces()
        self._call = call
        self._meter = meter

    async def read(self) -> Piece:
        """Return the next piece. Raises UpstreamError, GatewayError."""
        piece = await anext(self._pieces, None)
        if piece is None:
            raise Interrupted("The answer ended before it was whole.")
        tokens, said = piece.content
        self._meter.note(self._call, (said,) if isinstance(said, dict) else said, tokens=tokens)
        self.is_done = piece.is_last
        return piece

    async def read_all(self, pieces: list[Piece]) -> None:
        """Add all that comes to `pieces`. Raises UpstreamError, GatewayError."""
        while not self.is_done:
            pieces.append(await self.read())


class AnswerStream:
    """The frames of one answer. Iterating never raises: a failure is an error event.

    Each item holds all frames of one piece. `[DONE]` comes only if the answer is whole.
    `is_over` turns true with the last item, so that it can leave together with the end of the
    response: SDKs hang up as soon as they read `[DONE]`. Whoever opened it closes it: what
    `exchange` used is settled by then, or with the last item.
    """

    content_type = "text/event-stream; charset=utf-8"

    def __init__(
        self,
        exchange: Exchange,
        tapes: Sequence[Tape],
        *,
        calls: Sequence[Call],
        encoder: TextEncoder,
        meter: UsageMeter,
    ) -> None:
        self._exchange = exchange
        self._tapes = tapes
        self._encoder = encoder
        self._meter = meter
        self._readers = [Reader(tape, call, meter) for tape, call in zip(tapes, calls, strict=True)]
        self._first: list[Piece] = []
        self._pumps: _Pumps | None = None
        self.is_over = False
        self.error: GatewayError | None = None

    async def open(self) -> None:
        """Wait for the first piece of every tape. Raises UpstreamError, GatewayError."""
        await open_all(self._tapes)
        self._first = [await reader.read() for reader in self._readers]

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield frames until the answer is whole or has failed."""
        tail = b""
        unfinished = len(self._readers)
        first, rest = deque(self._first), self._merged()
        try:
            while unfinished:
                piece = first.popleft() if first else await rest.read()
                tail += self._encode(piece)
                unfinished -= piece.is_last
                if tail and unfinished:
                    yield tail
                    tail = b""
            tail += self._encoder.end(await self._settle())
        except (UpstreamError, GatewayError) as exc:
            await self._settle()
            self.error = exc if isinstance(exc, GatewayError) else from_upstream(exc)
            tail += self._encoder.fail(self.error)
        self.is_over = True
        yield tail

    async def aclose(self) -> None:
        """Close every tape, and settle what came until then."""
        try:
            if self._pumps:
                await self._pumps.aclose()
            await close_all(self._tapes)
        finally:
            if not self.is_over:
                await self._settle()

    def _merged(self) -> Reader | _Pumps:
        """Return what reads all tapes; a single one, as most answers have, needs no pump."""
        if len(self._readers) == 1:
            return self._readers[0]
        self._pumps = _Pumps(self._readers)
        return self._pumps

    def _encode(self, piece: Piece) -> bytes:
        frames = b""
        for chunk in chunks_of(piece):
            frames += self._encoder.encode(chunk)
        return frames

    async def _settle(self) -> Json:
        """Bring the exchange up to date, and return its usage as OpenAI's."""
        self._exchange.finish = self._encoder.finish
        return await self._meter.settle()


class _Pumps:
    """What several readers read, in order of arrival. They begin at once, and end with a failure.

    Whoever made it closes it, before the tapes.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._queue: asyncio.Queue[Piece | UpstreamError | GatewayError]
        self._queue = asyncio.Queue(_READS_AHEAD * len(readers))
        self._tasks = [asyncio.create_task(self._pump(reader)) for reader in readers]

    async def read(self) -> Piece:
        """Return the next piece. Raises UpstreamError, GatewayError."""
        item = await self._queue.get()
        if isinstance(item, Piece):
            return item
        self._cancel()
        raise item

    async def aclose(self) -> None:
        """End what is under way."""
        self._cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pump(self, reader: Reader) -> None:
        try:
            while not reader.is_done:
                await self._queue.put(await reader.read())
        except (UpstreamError, GatewayError) as exc:
            await self._queue.put(exc)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
