"""The two ends of a line between workers: what a leader sends, and what a follower makes of it."""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections.abc import Iterator
from typing import Any

import msgspec

from adapters.errors import Interrupted
from gateway.cache.bus import Bus
from gateway.cache.flight import Abandoned, Flight
from gateway.cache.messages import (
    Beat,
    Failed,
    Gone,
    Join,
    Leave,
    Message,
    Pay,
    Pieces,
    Told,
    pack_error,
    unpack_error,
    worker_of,
)
from gateway.store import StoreError
from gateway.tapes import Piece

BEAT_SECONDS = 1.5
SILENCE_SECONDS = 5.0

_DOUBT_SECONDS = 2.0  # of silence; then it is tried whether the leader is still there

# A subscriber is cut off by the server once 32 MB wait for it, and every command has 50 ms.
_MESSAGE_BYTES = 1024 * 1024
_PIECES = 512

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Piece]).decode


# How long a store may be away without a line being lost, and how often it is tried meanwhile.
_RETRY_SECONDS = 2.0
_PAUSE_SECONDS = 0.1


class LeaderLost(Exception):
    """Whoever had the answer made does not do so any more, or cannot be heard."""


class LineLost(LeaderLost):
    """Something was missed; the leader may still be there."""


class _HungUp(Exception):
    """The follower is gone."""


class Courier:
    """Sends one flight over one line, as fast as the store takes it; has a seat like all others.

    The next message waits until the one before has arrived: meanwhile pieces gather for it.
    """

    def __init__(
        self, flight: Flight, bus: Bus, *, line: str, first: int, beat_seconds: float
    ) -> None:
        """Begin to send, from the piece `first` on."""
        self._flight = flight
        self._bus = bus
        self._line = line
        self._sent = first
        self._beat_seconds = beat_seconds
        self._seat = flight.seat(on_charge=self._charge)
        flight.start()
        self.task = asyncio.get_running_loop().create_task(self._run())

    def hang_up(self) -> None:
        """The follower wants no more."""
        self.task.cancel()

    async def _run(self) -> None:
        try:
            await self._send_pieces()
            await self._send_end()
        except (_HungUp, StoreError):
            pass  # a follower that is there all the same misses something
        finally:
            await self._seat.aclose()

    async def _send_pieces(self) -> None:
        flight = self._flight
        while True:
            while (sent := self._sent) < len(flight.pieces):
                batch = flight.pieces[sent : sent + _fitting(flight.sizes, sent)]
                for message in _cut(self._line, sent, _pack(batch)):
                    await self._send(message)
                self._sent += len(batch)
            if flight.is_over:
                return
            await self._wait()

    async def _send_end(self) -> None:
        error = self._flight.error
        if isinstance(error, Abandoned):
            await self._send(Gone(self._line))
        elif error is not None:
            await self._send(Failed(self._line, pack_error(error)))

    async def _wait(self) -> None:
        """Wait for news, and say so now and then."""
        try:
            async with asyncio.timeout(self._beat_seconds):
                await self._seat.news()
        except TimeoutError:
            await self._send(Beat(self._line, self._flight.token))

    async def _send(self, message: Message) -> None:
        """Send until it arrives; twice does no harm. Raises _HungUp, StoreError."""
        give_up_at = time.monotonic() + _RETRY_SECONDS
        while True:
            try:
                if not await self._bus.send(worker_of(self._line), message):
                    raise _HungUp
            except StoreError:
                if time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return

    def _charge(self) -> None:
        forget(self._bus.send(worker_of(self._line), Pay(self._line)))


class Following:
    """Adds to a flight what comes over a line."""

    def __init__(self, flight: Flight, *, silence_seconds: float) -> None:
        self.end: Future[None] = asyncio.get_running_loop().create_future()
        forget(self.end)
        self._flight = flight
        self._silence_seconds = silence_seconds
        self._heard_at = time.monotonic()
        self._unfinished = bytearray()

    async def run(self, bus: Bus, line: str, *, holder: str) -> None:
        """Return when all pieces are there. Raises LeaderLost, UpstreamError, GatewayError."""
        await self._ask(bus, line, holder=holder)
        while not self.end.done():
            silent_seconds = time.monotonic() - self._heard_at
            if silent_seconds >= self._silence_seconds:
                raise LeaderLost
            if silent_seconds >= _DOUBT_SECONDS:
                await self._ask(bus, line, holder=holder)
            await asyncio.wait([self.end], timeout=min(1.0, self._silence_seconds))
        self.end.result()

    async def _ask(self, bus: Bus, line: str, *, holder: str) -> None:
        """Ask for the pieces, again if need be. Raises LeaderLost if nobody hears it."""
        flight = self._flight
        message = Join(flight.wanted.lock_key, holder, line, len(flight.pieces))
        try:
            if not await bus.send(worker_of(holder), message):
                raise LeaderLost
        except StoreError:
            raise LeaderLost from None

    def hear(self, message: Told) -> None:
        """Take in what the leader says."""
        if self.end.done():
            return
        self._heard_at = time.monotonic()
        match message:
            case Pieces():
                self._add(message)
            case Pay():
                self._flight.charge()
            case Gone():
                self.end.set_exception(LeaderLost())
            case Failed():
                self.end.set_exception(unpack_error(message.error))

    def lose(self) -> None:
        """Follow no more: something may have been missed."""
        if not self.end.done():
            self.end.set_exception(LineLost())

    def _add(self, message: Pieces) -> None:
        at, awaited = (
            (message.first, message.offset),
            (len(self._flight.pieces), len(self._unfinished)),
        )
        if at == awaited:
            self._unfinished += message.data
            if not message.is_cut:
                data, self._unfinished = self._unfinished, bytearray()
                self._hand_out(data)
        elif at > awaited:
            self.lose()

    def _hand_out(self, data: bytearray) -> None:
        try:
            for piece in _unpack(data):
                self._flight.add(piece)
        except msgspec.DecodeError:
            self.end.set_exception(LeaderLost())
        except Interrupted as error:
            self.end.set_exception(error)
        if self._flight.is_over and not self.end.done():
            self.end.set_result(None)


def forget(answer: Future[Any]) -> None:
    """Let a message go its way: whether it arrives is of no interest."""
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())


def leave(bus: Bus, line: str, *, token: str) -> None:
    """Tell the holder of `token` that nobody is on a line."""
    forget(bus.send(worker_of(token), Leave(line)))


def _fitting(sizes: list[int], start: int) -> int:
    """Return how many pieces from `start` on make up a message: one at least."""
    total = 0
    window = sizes[start : start + _PIECES]
    for count, size in enumerate(window):
        total += size
        if total > _MESSAGE_BYTES:
            return max(1, count)
    return len(window)


def _cut(line: str, first: int, data: bytes) -> Iterator[Pieces]:
    """Yield the messages that carry the encoding of pieces."""
    for offset in range(0, len(data), _MESSAGE_BYTES):
        end = offset + _MESSAGE_BYTES
        yield Pieces(line, first, offset, end < len(data), data[offset:end])
