"""A closed loop of N connections against one server, which takes no answer unread.

Each connection sends its next request when the last answer is complete. A status other than
200, a missing token or a broken stream ends the run with `WrongAnswer`: an error must not look
like speed. Streams may begin one after the other (`ramp_seconds`), so that their beginnings
and tokens stay spread out, as from users who do not know of each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

from tests.bench.client import Connection, Target, WrongAnswer, tokens_answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is sent. Within `ramp_seconds` the connections begin, evenly spread.

    No request starts later than `seconds` after the ramp, nor after `count` of them.
    """

    tokens: int
    connections: int
    seconds: float
    count: int = 1_000_000
    stream: bool = False
    ramp_seconds: float = 0.0


@dataclass(slots=True)
class Result:
    """What a run measured; the lists have one entry per request.

    `first_token_seconds` leaves out the streams that began within the ramp.
    """

    requests: int = 0
    tokens: int = 0
    seconds: float = 0.0
    latency_seconds: list[float] = field(default_factory=list)
    first_token_seconds: list[float] = field(default_factory=list)


async def run(target: Target, workload: Workload, prompts: Iterator[str]) -> Result:
    """Put the load on `target` and return what came of it; takes a prompt of `prompts` each time.

    Raises WrongAnswer, OSError (nothing listens) or TimeoutError (two minutes without a
    complete answer), whichever came first.
    """
    load = _Load(target, workload, prompts)
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(workload.connections):
                delay_seconds = workload.ramp_seconds * number / workload.connections
                group.create_task(load.loop(delay_seconds))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    load.result.seconds = perf_counter() - load.started_at
    for answer in load.unread:
        load.read(answer)
    return load.result


class _Load:
    """One run: its loops share the count, the prompts and the result."""

    def __init__(self, target: Target, workload: Workload, prompts: Iterator[str]) -> None:
        self.result = Result()
        self.unread: list[bytes] = []
        self.started_at = perf_counter()
        self._target = target
        self._workload = workload
        self._prompts = prompts

    async def loop(self, delay_seconds: float) -> None:
        """Send and receive on one connection until the run is over."""
        await asyncio.sleep(delay_seconds)
        connection = await Connection.open(self._target)
        try:
            while self._goes_on():
                if connection.closed:
                    connection = await Connection.open(self._target)
                await self._exchange(connection)
        finally:
            connection.close()

    def read(self, answer: bytes) -> None:
        """Count the tokens of `answer`. Raises WrongAnswer unless it has all of them."""
        tokens = tokens_answered(answer)
        if tokens != self._workload.tokens:
            raise WrongAnswer(f"{tokens} tokens instead of {self._workload.tokens}")
        self.result.tokens += tokens

    def _goes_on(self) -> bool:
        elapsed_seconds = perf_counter() - self.started_at - self._workload.ramp_seconds
        within_time = elapsed_seconds < self._workload.seconds
        return within_time and self.result.requests < self._workload.count

    async def _exchange(self, connection: Connection) -> None:
        self.result.requests += 1
        request = self._target.request(
            next(self._prompts), tokens=self._workload.tokens, stream=self._workload.stream
        )
        begun_at = perf_counter()
        answer = await connection.exchange(request)
        self.result.latency_seconds.append(perf_counter() - begun_at)
        ramped_up = begun_at - self.started_at >= self._workload.ramp_seconds
        if ramped_up and connection.first_token_at is not None:
            self.result.first_token_seconds.append(connection.first_token_at - begun_at)
        if self._workload.stream:
            # Reading a whole stream takes 0.3 ms, which others' first tokens would show.
            self.unread.append(answer)
        else:
            self.read(answer)
