"""Workers that share a cache store, and answers that are made as a test says."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.cache.bus import Bus, Receive
from gateway.cache.flight import Seat, Wanted
from gateway.cache.flights import Flights
from gateway.cache.messages import Message
from gateway.cache.shelf import Found, Shelf
from gateway.store import Store
from gateway.tapes import Piece, Recipe
from tests.patience import PATIENCE_SECONDS

STORAGE_KEY = "answer:{d1}"
LOCK_KEY = "flight:{d1}"


class Upstream:
    """Makes one answer of what it is told to say; everyone who asks gets the same."""

    def __init__(self) -> None:
        self.makes = 0
        self.closed = asyncio.Event()
        self.asked = asyncio.Event()
        self._said: list[Piece | BaseException] = []
        self._news = asyncio.Event()

    def say(self, *said: Any, last: bool = False) -> None:
        """Say pieces of such contents, or raise such an error."""
        for index, one in enumerate(said):
            is_last = last and index == len(said) - 1
            self._said.append(one if isinstance(one, BaseException) else Piece(one, is_last))
        self._news.set()

    def recipe(self) -> Recipe:
        return Recipe()

    def is_sound(self, pieces: Sequence[Piece]) -> bool:
        return pieces[-1].content != "unsound"

    async def make(self) -> AsyncIterator[Piece]:
        self.makes += 1
        self.asked.set()
        at = 0
        try:
            while True:
                while at < len(self._said):
                    one = self._said[at]
                    if isinstance(one, BaseException):
                        raise one
                    yield one
                    at += 1
                    if one.is_last:
                        return
                self._news.clear()
                await self._news.wait()
        finally:
            self.closed.set()


class TappedBus(Bus):
    """A bus that shows what it has received."""

    def open(self, receive: Receive, *, on_down: Callable[[], None]) -> None:
        self.received: list[Message] = []
        self.lost: list[Message] = []
        self.loses: type[Message] | None = None  # the next message of this kind
        self._news = asyncio.Event()

        def tap(message: Message) -> None:
            if type(message) is self.loses:
                self.loses = None
                self.lost.append(message)
                return
            receive(message)
            self.received.append(message)
            self._news.set()

        super().open(tap, on_down=on_down)

    async def heard(self, kind: type[Message], count: int = 1) -> None:
        """Return once so many messages of a kind have been received."""
        while sum(isinstance(message, kind) for message in self.received) < count:
            self._news.clear()
            await self._news.wait()


@dataclass(frozen=True, slots=True)
class Worker:
    store: Store
    shelf: Shelf
    bus: TappedBus
    flights: Flights
    available: asyncio.Event

    def wanted(self, part: Upstream, key: str = LOCK_KEY) -> Wanted:
        storage_key = key.replace("flight", "answer")

        async def keep(pieces: Sequence[Piece], token: str) -> None:
            value = msgspec.msgpack.encode(pieces)
            await self.shelf.keep(storage_key, key, token=token, value=value, ttl_ms=60_000)

        return Wanted(part=part, storage_key=storage_key, lock_key=key, keep=keep, load=load)

    async def seat(self, part: Upstream, key: str = LOCK_KEY) -> Seat:
        seat = await self.flights.enter(self.wanted(part, key))
        assert isinstance(seat, Seat)
        return seat

    async def recovered(self) -> None:
        """Return once the store is asked again."""
        while not self.store.is_available:
            await self.available.wait()
            self.available.clear()

    async def ask(self, part: Upstream, key: str = LOCK_KEY) -> list[Any]:
        """Return the contents of an answer, however it is come by."""
        found = await self.flights.enter(self.wanted(part, key))
        if isinstance(found, Found):
            return contents(await load(found.value) or [])
        return await read(found)


async def load(value: bytes) -> list[Piece] | None:
    """Return what `Worker.wanted` keeps, None for anything else."""
    try:
        return msgspec.msgpack.decode(value, type=list[Piece])
    except msgspec.DecodeError:
        return None


async def read(seat: Seat) -> list[Any]:
    """Return the contents of all pieces; the seat is closed."""
    try:
        async with aclosing(seat.pieces()) as pieces:
            return [piece.content async for piece in pieces]
    finally:
        await seat.aclose()


def contents(pieces: Sequence[Piece]) -> list[Any]:
    return [piece.content for piece in pieces]


def reading(seat: Seat) -> asyncio.Task[list[Any]]:
    return asyncio.ensure_future(read(seat))


@asynccontextmanager
async def worker(
    url: str, *, patience_seconds: float = 5, **options: float
) -> AsyncIterator[Worker]:
    """Yield a worker that hears the others, and takes no busy store for a lost one."""
    store = Store(url, timeout_seconds=patience_seconds, probe_seconds=0.05)
    bus = TappedBus(store, worker_id=secrets.token_hex(8), patience_seconds=patience_seconds)
    shelf, available = Shelf(store), asyncio.Event()
    store.on_change = lambda _: available.set()
    # A script that the server does not know yet would be late by one trip.
    await shelf.look("", "warm", token="warm")
    await shelf.release("warm", "warm")
    try:
        async with Flights(shelf, bus, **options) as flights:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await bus.wait_until_up()
            yield Worker(store, shelf, bus, flights, available)
    finally:
        await store.aclose()


@asynccontextmanager
async def workers(url: str, count: int, **options: float) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(worker(url, **options)) for _ in range(count)]
