"""Single flight: who wants an answer that is being made gets it from there, not from an upstream.

Within a worker all sit in one `Flight`. Among workers, whoever holds the lock of an answer leads;
the others follow over the bus, and if the leader dies before it has sent anything, one of them
takes its place. A lock is advice: without the store every worker is by itself, and at the worst
an answer is made twice.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from contextlib import aclosing, suppress
from typing import Any, Self, TypeGuard

from adapters.errors import Interrupted, UpstreamError
from gateway.cache.bus import Bus
from gateway.cache.flight import Abandoned, Flight, Seat, Wanted
from gateway.cache.lines import Lines
from gateway.cache.remote import BEAT_SECONDS, SILENCE_SECONDS, LeaderLost
from gateway.cache.shelf import Away, Found, Held, Shelf, Standing, Won
from gateway.errors import GatewayError
from gateway.tapes import Piece

_ROUNDS = 3  # of following; whoever has lost as many leaders makes the answer alone
_STORING_SECONDS = 0.05  # the last piece waits for its answer to be kept, but not longer
_TAIL_SECONDS = 1.0  # what an upstream may take to end after its last piece


class Flights:
    """The answers under way of one worker. Entered, it is heard by the others."""

    def __init__(
        self,
        shelf: Shelf,
        bus: Bus,
        *,
        beat_seconds: float = BEAT_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`bus` is opened and closed with it, `shelf` only used: close its store later."""
        self._shelf = shelf
        self._bus = bus
        self._beat_seconds = beat_seconds
        self._flights: dict[str, Flight] = {}  # by lock key: those that can be joined
        self._aloft: set[Flight] = set()  # those that may have something under way
        self._pending: set[Future[Any]] = set()
        self._lines = Lines(
            bus,
            find=self._flights.get,
            beat_seconds=beat_seconds,
            silence_seconds=silence_seconds,
        )

    async def __aenter__(self) -> Self:
        self._lines.open()
        self._renewing = asyncio.get_running_loop().create_task(self._renew())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all flights. Workers that follow are told to look for themselves."""
        self._renewing.cancel()
        error = Abandoned("The gateway is being shut down.")
        await asyncio.gather(*(flight.abort(error) for flight in tuple(self._aloft)))
        await asyncio.wait([self._renewing, *self._pending])
        await self._lines.aclose()

    def join(self, lock_key: str) -> Seat | None:
        """Return a seat in the flight that this worker has for an answer, if it has one."""
        flight = self._flights.get(lock_key)
        return None if flight is None else flight.seat()

    async def enter(self, wanted: Wanted, *, anew: bool = False) -> Found | Seat:
        """Return what is kept, or a seat in a flight, which has to be closed.

        It takes one trip to the store, and one more if a lock of ours leads nowhere. With `anew`
        it is of no interest what is kept. The store's trouble is not told: it is a flight of ours.
        """
        dead = ""
        while (seat := self.join(wanted.lock_key)) is None:
            with self._lines.contending() as token:
                standing = await self._look(wanted, token, dead=dead, anew=anew)
                if isinstance(standing, Found):
                    return standing
                if dead or not self._is_ours(standing):
                    return self._seat(wanted, standing, token)
                dead = standing.holder
        return seat

    def _seat(self, wanted: Wanted, standing: Standing, token: str) -> Seat:
        """Return a seat in a new flight, or in one that began meanwhile."""
        flight = self._flights.get(wanted.lock_key)
        if flight is not None:
            if isinstance(standing, Won):
                self._release(wanted.lock_key, token)
            return flight.seat()
        flight = Flight(wanted, lambda it: self._fly(it, standing), on_over=self._see_off)
        self._flights[wanted.lock_key] = flight
        self._aloft.add(flight)
        seat = flight.seat()
        if isinstance(standing, Won):
            flight.token = token
        if not isinstance(standing, Held):
            flight.charge()
        return seat

    async def _look(
        self, wanted: Wanted, token: str, *, dead: str = "", anew: bool = False
    ) -> Standing:
        """Ask the store. A worker that cannot hear the others takes no lock."""
        key, lock_key = wanted.storage_key, wanted.lock_key
        if not self._bus.is_up:
            return (None if anew else await self._shelf.get(key)) or Away()
        try:
            return await self._shelf.look(key, lock_key, token=token, dead=dead, anew=anew)
        except asyncio.CancelledError:
            self._release(lock_key, token)
            raise

    async def _fly(self, flight: Flight, standing: Standing) -> None:
        """Add all pieces. Raises UpstreamError, GatewayError."""
        for _ in range(_ROUNDS):
            if not isinstance(standing, Held):
                break
            try:
                return await self._lines.follow(flight, standing.holder)
            except LeaderLost:
                if flight.pieces:
                    return await self._catch_up(flight)
            standing = await self._contend(flight, dead=standing.holder)
        if isinstance(standing, Found) and await self._load(flight, standing.value):
            return None
        flight.charge()
        return await self._lead(flight)

    async def _contend(self, flight: Flight, *, dead: str) -> Standing:
        """Look again, after the leader is gone."""
        with self._lines.contending() as token:
            standing = await self._look(flight.wanted, token, dead=dead)
            if isinstance(standing, Won):
                flight.token = token
        return standing

    async def _catch_up(self, flight: Flight) -> None:
        """Add what was missed of an answer that was whole by then. Raises Interrupted."""
        found = await self._shelf.get(flight.wanted.storage_key)
        if not isinstance(found, Found) or not await self._load(flight, found.value):
            raise Interrupted("The worker that made the answer is gone.")

    async def _load(self, flight: Flight, value: bytes) -> bool:
        """Add the pieces of what was kept meanwhile; tell whether it could be used."""
        pieces = list(await flight.wanted.load(value) or ())
        count = len(flight.pieces)
        is_same = pieces[:count] == flight.pieces  # and not of another making
        if is_same and pieces and pieces[-1].is_last:
            for piece in pieces[count:]:
                flight.add(piece)
        return flight.is_over

    async def _lead(self, flight: Flight) -> None:
        """Have it made. Raises UpstreamError, GatewayError."""
        began = time.monotonic()
        async with aclosing(flight.wanted.part.make()) as source:
            async for piece in source:
                piece.ms = int((time.monotonic() - began) * 1000)
                if piece.is_last:
                    await self._store(flight, piece)
                flight.add(piece)
                if piece.is_last:
                    break
            with suppress(TimeoutError, UpstreamError, GatewayError):  # the answer is whole
                async with asyncio.timeout(_TAIL_SECONDS):
                    await anext(source, None)

    async def _store(self, flight: Flight, last: Piece) -> None:
        """Keep the answer before its end is seen, so that whoever asks after it finds it."""
        pieces = [*flight.pieces, last]
        if flight.wanted.part.is_sound(pieces):
            keeping = asyncio.ensure_future(flight.wanted.keep(pieces, flight.token))
            flight.keeping = keeping
            self._await_at_end(keeping)
            # A store that did not give us the lock is in trouble: its time is spent.
            await asyncio.wait([keeping], timeout=_STORING_SECONDS if flight.token else 0)

    def _see_off(self, flight: Flight) -> None:
        """Let go of a flight that is over, once its answer is kept: until then it is joined."""
        if flight.task is None:
            self._aloft.discard(flight)
        else:
            flight.task.add_done_callback(lambda _: self._aloft.discard(flight))
        if flight.keeping is None or flight.keeping.done():
            self._let_go(flight)
        else:
            flight.keeping.add_done_callback(lambda _: self._let_go(flight))

    def _let_go(self, flight: Flight) -> None:
        lock_key = flight.wanted.lock_key
        if self._flights.get(lock_key) is flight:
            del self._flights[lock_key]
        if flight.token:
            self._release(lock_key, flight.token)
            flight.token = ""

    def _release(self, lock_key: str, token: str) -> None:
        self._await_at_end(self._shelf.release(lock_key, token))

    def _await_at_end(self, work: Future[Any]) -> None:
        self._pending.add(work)
        work.add_done_callback(self._pending.discard)

    async def _renew(self) -> None:
        """Prolong the locks of all flights that lead."""
        while True:
            await asyncio.sleep(self._beat_seconds)
            for flight in self._aloft:
                if flight.token:
                    self._shelf.renew(flight.wanted.lock_key, flight.token)

    def _is_ours(self, standing: Standing) -> TypeGuard[Held]:
        return isinstance(standing, Held) and self._lines.is_ours(standing.holder)
