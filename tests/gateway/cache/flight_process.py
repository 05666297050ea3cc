"""A worker as a process of its own, told by lines on its standard input what to do.

`python -m tests.gateway.cache.flight_process URL`: `ask`, `say TEXT` and `end TEXT` of its own
upstream; it tells `ready`, `asked` (the upstream), `joined`, `piece TEXT`, `error TYPE`, `done`.
"""

from __future__ import annotations

import asyncio
import sys

from adapters.errors import UpstreamError
from gateway.cache.flight import Seat
from gateway.cache.messages import Join
from tests.gateway.cache.workers import Upstream, Worker, worker


def _tell(*words: str) -> None:
    print(*words, flush=True)


async def _ask(one: Worker, upstream: Upstream) -> None:
    seat = await one.flights.enter(one.wanted(upstream))
    assert isinstance(seat, Seat)
    try:
        async for piece in seat.pieces():
            _tell("piece", piece.content)
        _tell("done")
    except UpstreamError as error:
        _tell("error", type(error).__name__)
    finally:
        await seat.aclose()


async def _tell_asked(upstream: Upstream) -> None:
    await upstream.asked.wait()
    _tell("asked")


async def _tell_joins(one: Worker) -> None:
    count = 0
    while True:
        count += 1
        await one.bus.heard(Join, count)
        _tell("joined")


async def _main(url: str) -> None:
    upstream = Upstream()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with worker(url) as one:
        tasks = [
            asyncio.create_task(_tell_asked(upstream)),
            asyncio.create_task(_tell_joins(one)),
        ]
        _tell("ready")
        while line := (await reader.readline()).decode().split():
            match line:
                case ["ask"]:
                    tasks.append(asyncio.create_task(_ask(one, upstream)))
                case ["say", text]:
                    upstream.say(text)
                case ["end", text]:
                    upstream.say(text, last=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
