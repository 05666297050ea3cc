"""One answer under way, and all who wait for it in this worker.

A `Flight` keeps every piece, so that a seat taken late reads from the first one on, each at its own
pace. Where the pieces come from is not known here: see `gateway.cache.flights`.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from adapters.errors import Interrupted, UpstreamError
from gateway.errors import GatewayError
from gateway.tapes import Part, Piece

LIMIT_BYTES = 64 * 1024 * 1024

logger = logging.getLogger(__name__)

_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A part that a request wants, and where its answer is kept and locked.

    `keep` keeps a whole answer, given the token of the lock; `load` makes the pieces of what the
    store holds, None if it cannot be used. Neither raises.
    """

    part: Part
    storage_key: str
    lock_key: str
    keep: Callable[[Sequence[Piece], str], Awaitable[None]]
    load: Callable[[bytes], Awaitable[Sequence[Piece] | None]]


class Abandoned(Interrupted):
    """The worker that had the answer made gave it up. Another may begin anew."""


class Flight:
    """The pieces of one answer as they come. All seats share them: they are not to be changed.

    It takes off when the first seat is opened. `token` is that of the lock which it holds,
    `keeping` the work of keeping its answer.
    """

    def __init__(
        self,
        wanted: Wanted,
        fly: Callable[[Flight], Coroutine[Any, Any, None]],
        *,
        on_over: Callable[[Flight], None],
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        """`fly` adds all pieces, or raises. `on_over` is called once, at the end of either."""
        self.wanted = wanted
        self.token = ""
        self.pieces: list[Piece] = []
        self.sizes: list[int] = []  # of the pieces, encoded, in bytes
        self.is_over = False
        self.error: BaseException | None = None
        self.keeping: asyncio.Task[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._fly = fly
        self._on_over = on_over
        self._room_bytes = limit_bytes
        self._payer: Seat | None = None
        self._seats: dict[Seat, None] = {}  # in the order in which they were taken

    def seat(self, *, on_charge: Callable[[], None] | None = None) -> Seat:
        """Return a new seat, which has to be closed. `on_charge`: it is another worker's."""
        seat = Seat(self, on_charge=on_charge)
        self._seats[seat] = None
        return seat

    def start(self) -> None:
        """Take off, unless that has been done."""
        if self.task is None and not self.is_over:
            self.task = asyncio.get_running_loop().create_task(self._fly(self))
            self.task.add_done_callback(self._land)

    def add(self, piece: Piece) -> None:
        """Hand out a piece. Raises Interrupted if there are too many to be kept."""
        try:
            size = len(_pack(piece))
        except OverflowError:  # an integer of over 64 bits
            raise Interrupted("The upstream's answer holds a number too large.") from None
        self._room_bytes -= size
        if self._room_bytes < 0:
            raise Interrupted("The answer is too large to be shared.")
        self.pieces.append(piece)
        self.sizes.append(size)
        if piece.is_last:
            self._end(None)
        self._wake()

    def fail(self, error: BaseException) -> None:
        """End with an error, which every seat gets after the pieces that there are."""
        if not self.is_over:
            self._end(error)
            self._wake()

    def charge(self) -> None:
        """Let a seat pay, if none does: one of this worker, if there is any."""
        if self._payer is None and self._seats:
            self._payer = min(self._seats, key=lambda seat: seat.is_remote)
            self._payer.charge()

    async def leave(self, seat: Seat) -> None:
        """Give up a seat. With the last one the flight ends, and its upstream call."""
        self._seats.pop(seat, None)
        if self.is_over:
            return
        if not self._seats:
            await self.abort(Abandoned("Nobody waits for the answer any more."))
        elif self._payer is seat:
            seat.is_free, self._payer = True, None
            self.charge()

    async def abort(self, error: UpstreamError) -> None:
        """End now. Returns when nothing is under way any more."""
        self.fail(error)
        if (task := self.task) is not None:
            task.cancel()
            await asyncio.wait([task])

    def _end(self, error: BaseException | None) -> None:
        self.is_over = True
        self.error = error
        self._payer = None  # stays charged; but a cycle would hold the pieces in memory
        self._on_over(self)

    def _wake(self) -> None:
        for seat in self._seats:
            seat.wake()

    def _land(self, task: asyncio.Task[None]) -> None:
        self.task = None  # its traceback knows us: a cycle would hold the pieces in memory
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, UpstreamError | GatewayError):
            logger.error("an answer under way failed", exc_info=error)
        self.fail(error or Interrupted("The upstream's answer ended before it was whole."))


class Seat:
    """One reader of a flight: a tape.

    `is_free`: another pays. It may change while the answer is under way.
    """

    def __init__(self, flight: Flight, *, on_charge: Callable[[], None] | None = None) -> None:
        self.is_free = True
        self._flight = flight
        self._on_charge = on_charge
        self._news = asyncio.Event()

    @property
    def is_remote(self) -> bool:
        """Whether it stands for another worker."""
        return self._on_charge is not None

    async def open(self) -> None:
        """Wait for the first piece. Raises UpstreamError, GatewayError."""
        flight = self._flight
        flight.start()
        while not flight.pieces:
            if flight.is_over:
                self._fail()
            await self.news()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield them, once. Raises UpstreamError, GatewayError."""
        await self.open()
        flight, at = self._flight, 0
        while True:
            while at < len(flight.pieces):
                yield flight.pieces[at]
                at += 1
            if flight.is_over:
                break
            await self.news()
        if flight.error is not None:
            self._fail()

    async def news(self) -> None:
        """Wait until something has changed since the last time."""
        await self._news.wait()
        self._news.clear()

    def wake(self) -> None:
        """Tell the reader that something has changed."""
        self._news.set()

    def charge(self) -> None:
        """Let it pay from now on, or the worker for which it stands."""
        self.is_free = False
        if self._on_charge is not None:
            self._on_charge()

    async def aclose(self) -> None:
        """Want no more of it."""
        await self._flight.leave(self)

    def _fail(self) -> NoReturn:
        """Raise the flight's error: a copy, because each reader adds its own traceback."""
        error = self._flight.error
        assert error is not None  # noqa: S101 (an end without pieces is one with an error)
        raise copy.copy(error) if isinstance(error, UpstreamError | GatewayError) else error
