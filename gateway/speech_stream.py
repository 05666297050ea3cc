"""Speech that leaves while it is still being made: as sound, or as events that hold sound."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from adapters.errors import UpstreamError
from gateway.amounts import Usage
from gateway.encoder import CONTENT_TYPES
from gateway.errors import GatewayError, from_upstream

logger = logging.getLogger(__name__)

_DELTA_BYTES = 24 * 1024  # 32 KiB as base64: the event parsers of some clients stop at 64
_TOKEN_MS = 50


class SpeechStream:
    """One file of `form` in parts. `first` is its beginning, `parts` yields the rest.

    Iterating never raises. A file that breaks off has no place for an error, and its end looks
    like any other: then `frames` ends with `is_over` still false, so that the connection is cut.
    `close` ends what is still under way.
    """

    def __init__(
        self,
        form: str,
        *,
        first: bytes,
        parts: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.content_type = CONTENT_TYPES[form]
        self.is_over = False
        self.error: GatewayError | None = None
        self._first = first
        self._parts = parts
        self._close = close

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield the file."""
        try:
            if self._first:
                yield self._first
            async for part in self._parts:
                if part:
                    yield part
        except (GatewayError, UpstreamError) as exc:
            logger.info("speech was cut off by %s", type(exc).__name__)
            self.error = exc if isinstance(exc, GatewayError) else from_upstream(exc)
            await self._close()
            return
        self.is_over = True
        yield b""

    async def aclose(self) -> None:
        """End what is still under way."""
        await self._close()


class SpeechEvents:
    """The parts of a `SpeechStream` as OpenAI's events, `usage` in the last of them.

    There a failure is an event too. `usage` is read at the end: `characters`, `audio_ms`.
    """

    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, sound: SpeechStream, usage: Usage) -> None:
        self.is_over = False
        self.error: GatewayError | None = None
        self._sound = sound
        self._usage = usage

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield the events."""
        async for part in self._sound.frames():
            if part:
                yield _deltas(part)
        self.is_over = True
        self.error = self._sound.error
        yield self.error.event() if self.error else _done(self._usage)

    async def aclose(self) -> None:
        """End what is still under way."""
        await self._sound.aclose()


def _deltas(part: bytes) -> bytes:
    slices = (part[at : at + _DELTA_BYTES] for at in range(0, len(part), _DELTA_BYTES))
    return b"".join(
        b'data: {"type":"speech.audio.delta","audio":"' + b64encode(piece) + b'"}\n\n'
        for piece in slices
    )


def _done(usage: Usage) -> bytes:
    """Return the last event.

    Speech models count no tokens, but the event must: a character in is one, and so are 50 ms
    of sound out.
    """
    given, made = usage.characters, -(-usage.audio_ms // _TOKEN_MS)
    counts: dict[str, Any] = {
        "input_tokens": given,
        "output_tokens": made,
        "total_tokens": given + made,
    }
    event = {"type": "speech.audio.done", "usage": counts}
    return b"data: %b\n\n" % msgspec.json.encode(event)
