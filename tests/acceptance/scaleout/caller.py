"""A client behind a load balancer: it takes whichever gateway takes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

from tests.gateway.running import Answer, Wire, request_head
from tests.patience import PATIENCE_SECONDS


class NoAnswer(Exception):
    """A gateway was not there, or hung up before the first byte of its answer."""


class Line(Wire):
    """A connection that is kept from one answer to the next, as long as the gateway likes."""

    def is_over(self) -> bool:
        """Tell whether the gateway has hung up."""
        return self._reader.at_eof()

    async def reply(self) -> Answer:
        """Read a response to its end. Raises NoAnswer, and IncompleteReadError for a part of one.

        The body of one in chunks has their frames.
        """
        try:
            answer = await self.answer()
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            raise NoAnswer from None
        except ConnectionResetError:
            raise NoAnswer from None
        if answer.headers.get("transfer-encoding") != "chunked":
            return answer
        return replace(answer, body=await self.read_until(b"\r\n0\r\n\r\n"))


class Caller:
    """One client with a key, which has a connection to each gateway and goes round them.

    `turned_away` counts the requests that a gateway did not begin to answer: the next one got them.
    """

    def __init__(self, ports: Sequence[int], key: str, *, first: int = 0) -> None:
        self.turned_away = 0
        self._turns = islice(cycle(ports), first, None)
        self._key = key
        self._lines: dict[int, Line] = {}

    async def ask(self, body: dict[str, Any]) -> Answer:
        """Return the answer to a chat."""
        data = json.dumps(body).encode()
        request = request_head(self._key, content_length=len(data)) + data
        async with asyncio.timeout(PATIENCE_SECONDS):
            for port in self._turns:
                try:
                    return await self._exchange(port, request)
                except NoAnswer:
                    self.turned_away += 1
        raise AssertionError

    async def aclose(self) -> None:
        """Hang up."""
        for line in self._lines.values():
            await line.aclose()

    async def _exchange(self, port: int, request: bytes) -> Answer:
        line = self._lines.pop(port, None)
        if line and line.is_over():
            await line.aclose()
            line = None
        line = line or await _connect(port)
        try:
            await line.send(request)
            answer = await line.reply()
        except BaseException:
            await line.aclose()
            raise
        if answer.headers.get("connection") == "close":
            await line.aclose()
        else:
            self._lines[port] = line
        return answer


async def _connect(port: int) -> Line:
    try:
        return Line(*await asyncio.open_connection("127.0.0.1", port))
    except ConnectionError:
        raise NoAnswer from None


class Load:
    """Callers who ask one request after the other. `answers`: what they asked, what they got."""

    def __init__(self) -> None:
        self.answers: list[tuple[dict[str, Any], Answer]] = []
        self.is_over = False
        self._news = asyncio.Event()

    async def more(self, number: int) -> None:
        """Wait for so many answers more."""
        wanted = len(self.answers) + number
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.answers) < wanted:
                self._news.clear()
                await self._news.wait()

    async def keep_asking(self, caller: Caller, bodies: Iterator[dict[str, Any]]) -> None:
        """Ask for one after the other until it is over; what was begun is answered."""
        try:
            while not self.is_over:
                body = next(bodies)
                self.answers.append((body, await caller.ask(body)))
                self._news.set()
        finally:
            await caller.aclose()


@asynccontextmanager
async def load(callers: Sequence[Caller], bodies: Iterator[dict[str, Any]]) -> AsyncIterator[Load]:
    """Let all callers ask meanwhile. A request that gets no answer ends the block."""
    made = Load()
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(made.keep_asking(caller, bodies))
        try:
            yield made
        finally:
            made.is_over = True
