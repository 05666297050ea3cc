"""Upstreams that answer step by step, as a test says, and clients that may leave after each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from adapters.transport import Transport
from tests.acceptance.metering.exchange_kinds import Kind
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit


class Witness(httpx.AsyncBaseTransport):
    """The network, and how many answers have come through it whole.

    Made in the test's loop; the gateway's runs in another thread.
    """

    def __init__(self) -> None:
        self.answers = 0
        self._network = Transport()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over the network."""
        answer = await self._network.handle_async_request(request)
        answer.stream = _Watched(answer.stream, self._note)
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._network.aclose()

    async def has_seen(self, answers: int) -> None:
        """Wait until there were so many."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.answers < answers:
                self._changed.clear()
                await self._changed.wait()

    def _note(self) -> None:
        self._loop.call_soon_threadsafe(self._count)

    def _count(self) -> None:
        self.answers += 1
        self._changed.set()


class _Watched(httpx.AsyncByteStream):
    def __init__(self, inner: Any, at_end: Callable[[], None]) -> None:
        self._inner = inner
        self._at_end = at_end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            yield part
        self._at_end()

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass
class Reading:
    """A client's answer, as far as it has come. `whole` ends with the answer."""

    kind: Kind
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    whole: asyncio.Task[None] = field(init=False)

    def __post_init__(self) -> None:
        self._more = asyncio.Event()

    def begin(self, client: httpx.AsyncClient) -> None:
        """Ask."""
        self.whole = asyncio.create_task(self._read(client))

    async def shows(self, steps: int) -> None:
        """Wait until the answer shows `steps` of its upstream's."""
        seen = self.kind.seen
        assert seen
        await self.until(lambda data: seen(data) >= steps)

    async def until(self, is_it: Callable[[bytes], bool]) -> None:
        """Wait until what was read is as it should be."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_it(self.data):
                self._more.clear()
                await self._more.wait()

    async def ends(self) -> None:
        """Wait for the end of the answer."""
        await asyncio.wait_for(self.whole, PATIENCE_SECONDS)

    async def _read(self, client: httpx.AsyncClient) -> None:
        kind = self.kind
        async with client.stream("POST", kind.path, **kind.request) as answer:
            self.status, self.headers = answer.status_code, answer.headers
            with suppress(httpx.RemoteProtocolError):  # cut off
                async for part in answer.aiter_raw():
                    self.data += part
                    self._more.set()


@asynccontextmanager
async def asking(client: httpx.AsyncClient, kind: Kind) -> AsyncIterator[Reading]:
    """Ask for an answer; leave with the end of the block, if it is not there by then."""
    reading = Reading(kind)
    reading.begin(client)
    try:
        yield reading
    finally:
        reading.whole.cancel()
        await asyncio.wait([reading.whole])


class Pace:
    """Lets `upstream` answer one request step by step. `visits` are those it has had so far."""

    def __init__(self, upstream: Upstream, witness: Witness) -> None:
        self.visits: list[Visit] = []
        self._taken = 0
        self._upstream = upstream
        self._witness = witness
        self._answers_before = witness.answers
        upstream.play(_hold)

    async def take(self, reading: Reading, steps: int) -> None:
        """Go on until the gateway has received `steps`, or the client the whole answer."""
        await self.visit(0)
        for number, data in reading.kind.steps[self._taken : steps]:
            await (await self.visit(number)).send(data)
            self._taken += 1
            if self._taken == len(reading.kind.steps):
                await reading.ends()
            elif reading.kind.seen:
                await reading.shows(self._taken)
            else:
                await self._witness.has_seen(self._answers_before + self._taken)

    async def visit(self, number: int) -> Visit:
        """Return a visit of the request, once it has come."""
        while len(self.visits) <= number:
            self.visits.append(await self._upstream.arrival())
        return self.visits[number]

    async def due(self, reading: Reading) -> Visit:
        """Return the visit that the next step is for."""
        number, _ = reading.kind.steps[self._taken]
        return await self.visit(number)


async def _hold(visit: Visit) -> None:
    await visit.left.wait()
