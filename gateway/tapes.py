"""What answers are made of: pieces, which come from an upstream, from the cache, or from a request
under way that asked for the same.

A job names its `Part`s, each of them what may be kept and shared by itself: a call for a text, one
image of several. Whoever carries the job out puts a `Tape` in the place of each part, and the job
makes its answer of the tapes' pieces, wherever they come from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from adapters.base import Call, Json
from adapters.errors import Interrupted
from gateway.upstreams.errand import Errand


class Piece(msgspec.Struct, array_like=True):
    """One read's worth of an answer. `content` is the task's own, of what msgpack can hold.

    `is_last`: with it the answer is whole. `ms`: when it came, counted from the beginning.
    """

    content: Any
    is_last: bool = False
    ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that a part depends on, besides the model.

    `calls`: what is sent, as it is for a client that does not stream. `form`: what is obeyed here
    of what the client asked for. `media`: bytes that are not in `calls`.
    """

    calls: Sequence[Call] = ()
    form: Json = field(default_factory=dict)
    media: bytes = b""


class Part(Protocol):
    """One thing to be made, alone or beside others. `calls` are what is sent for it."""

    @property
    def errand(self) -> Errand: ...

    @property
    def calls(self) -> Sequence[Call]: ...

    def recipe(self) -> Recipe:
        """Return what it depends on."""

    def make(self) -> AsyncGenerator[Piece]:
        """Have it made, and yield it; the last piece is marked so.

        Raises UpstreamError, GatewayError. It may be made for others than whoever asked first, so
        nothing in here touches the exchange.
        """

    def is_sound(self, pieces: Sequence[Piece]) -> bool:
        """Tell whether the whole of it is worth being kept."""


class Tape(Protocol):
    """The pieces of one part. `is_free`: no upstream was asked on this exchange's account."""

    @property
    def is_free(self) -> bool: ...

    async def open(self) -> None:
        """Wait for the first piece. Raises UpstreamError, GatewayError."""

    def pieces(self) -> AsyncIterator[Piece]:
        """Yield them, once. Raises UpstreamError, GatewayError."""

    async def aclose(self) -> None:
        """Want no more of it. May be called at any time, and more than once."""


class Direct:
    """A part that is made for this exchange alone."""

    is_free = False

    def __init__(self, part: Part) -> None:
        self._source = part.make()
        self._first: Piece | None = None

    async def open(self) -> None:
        """Wait for the first piece. Raises UpstreamError, GatewayError."""
        if self._first is None:
            self._first = await anext(self._source, None)
        if self._first is None:
            raise Interrupted("The upstream's answer is empty.")

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield them. Raises UpstreamError, GatewayError."""
        await self.open()
        assert self._first is not None  # noqa: S101 (see `open`)
        yield self._first
        async for piece in self._source:
            yield piece

    async def aclose(self) -> None:
        """Hang up."""
        await self._source.aclose()


class Recorded:
    """A part that was kept, in pieces that come at once, or at the pace at which it was made."""

    is_free = True

    def __init__(self, pieces: Sequence[Piece], *, is_paced: bool = False) -> None:
        self._pieces = pieces
        self._is_paced = is_paced

    async def open(self) -> None:
        """Do nothing: all is there."""

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield them."""
        began = time.monotonic()
        for piece in self._pieces:
            if self._is_paced:
                await asyncio.sleep(began + piece.ms / 1000 - time.monotonic())
            yield piece

    async def aclose(self) -> None:
        """Do nothing."""


async def open_all(tapes: Sequence[Tape]) -> None:
    """Wait for the first pieces of all; if one fails, all are closed. Raises what it raised."""
    if len(tapes) == 1:  # as most are: no task of its own
        await tapes[0].open()
        return
    opening = [asyncio.ensure_future(tape.open()) for tape in tapes]
    try:
        await asyncio.gather(*opening)
    except BaseException:
        for one in opening:
            one.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        await close_all(tapes)
        raise


async def collect(tape: Tape) -> list[Piece]:
    """Return all pieces. Raises UpstreamError, GatewayError."""
    async with aclosing(tape):
        return [piece async for piece in tape.pieces()]


async def close_all(tapes: Sequence[Tape]) -> None:
    """Want no more of any of them."""
    if len(tapes) == 1:
        await tapes[0].aclose()
        return
    await asyncio.gather(*(tape.aclose() for tape in tapes))
