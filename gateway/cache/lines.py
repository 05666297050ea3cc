"""The lines of one worker: those over which it leads, and those over which it follows."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.cache.bus import Bus
from gateway.cache.flight import Flight
from gateway.cache.messages import Beat, Gone, Join, Leave, Told, worker_of
from gateway.cache.remote import (
    BEAT_SECONDS,
    SILENCE_SECONDS,
    Courier,
    Following,
    LeaderLost,
    LineLost,
    forget,
    leave,
)

_CLOSING_SECONDS = 0.25
_TRIES = 3
_REJOIN_SECONDS = 2.0  # so long the bus may be away in the midst of an answer


class Lines:
    """Sends this worker's flights to those who join, and follows those of others."""

    def __init__(
        self,
        bus: Bus,
        *,
        find: Callable[[str], Flight | None],
        beat_seconds: float = BEAT_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`find` returns the flight of a lock key that can be joined now."""
        self._bus = bus
        self._find = find
        self._beat_seconds = beat_seconds
        self._silence_seconds = silence_seconds
        self._numbers = itertools.count()
        self._early: dict[str, list[Join]] = {}  # by token: locks that we may have by now
        self._couriers: dict[str, Courier] = {}
        self._followings: dict[str, Following] = {}

    def open(self) -> None:
        """Begin to listen."""
        self._bus.open(self._receive, on_down=self._lose_all)

    async def aclose(self) -> None:
        """Send what can be sent soon, and listen no more. The flights have to be over."""
        tasks = [courier.task for courier in self._couriers.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_CLOSING_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)
        await self._bus.aclose()

    @contextmanager
    def contending(self) -> Iterator[str]:
        """Yield a token for a lock.

        Another worker may learn that we have the lock before we do: who joins is kept waiting
        until we know, and by then have put our flight where it is found.
        """
        token = self._name()
        self._early[token] = []
        try:
            yield token
        finally:
            for message in self._early.pop(token):
                self._admit(message)

    async def follow(self, flight: Flight, holder: str) -> None:
        """Add the pieces of the flight that `holder` leads.

        Raises LeaderLost, UpstreamError, GatewayError.
        """
        for _ in range(_TRIES):
            try:
                return await self._follow(flight, holder)
            except LineLost:
                if not flight.pieces:
                    raise
                await self._wait_for_bus()
        raise LeaderLost

    def is_ours(self, token: str) -> bool:
        """Tell whether the token was made by this worker."""
        return worker_of(token) == self._bus.worker_id

    async def _follow(self, flight: Flight, holder: str) -> None:
        line = self._name()
        following = Following(flight, silence_seconds=self._silence_seconds)
        self._followings[line] = following
        try:
            await following.run(self._bus, line, holder=holder)
        finally:
            del self._followings[line]
            if not flight.is_over or flight.error:
                leave(self._bus, line, token=holder)

    async def _wait_for_bus(self) -> None:
        try:
            async with asyncio.timeout(_REJOIN_SECONDS):
                await self._bus.wait_until_up()
        except TimeoutError:
            raise LeaderLost from None

    def _receive(self, message: Join | Leave | Told) -> None:
        match message:
            case Join(token=token) if token in self._early:
                self._early[token].append(message)
            case Join():
                self._admit(message)
            case Leave(line=line):
                if line in self._couriers:
                    self._couriers[line].hang_up()
            case _:
                self._hear(message)

    def _admit(self, message: Join) -> None:
        """Let another worker follow, or tell it that there is nothing to follow."""
        flight = self._find(message.key)
        line = message.line
        if flight is None or flight.token != message.token:
            forget(self._bus.send(worker_of(line), Gone(line)))
        elif line not in self._couriers:
            self._couriers[line] = courier = Courier(
                flight,
                self._bus,
                line=line,
                first=message.first,
                beat_seconds=self._beat_seconds,
            )
            courier.task.add_done_callback(lambda _: self._couriers.pop(line))

    def _hear(self, message: Told) -> None:
        following = self._followings.get(message.line)
        if following is not None:
            following.hear(message)
        elif isinstance(message, Beat):
            leave(self._bus, message.line, token=message.token)

    def _lose_all(self) -> None:
        for following in self._followings.values():
            following.lose()

    def _name(self) -> str:
        return f"{self._bus.worker_id}:{next(self._numbers)}"
