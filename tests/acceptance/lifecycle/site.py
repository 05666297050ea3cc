"""A gateway that is reloaded and ended, with clients that notice whatever is lost."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.gateway.running import Answer, Wire, request_head
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit
from tests.served import Served, serve

_PACE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.3
_CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n'
_LAST = (
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)
_PLAIN = json.dumps(
    {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()


class Speaker:
    """What stands behind the gateway: it streams until `may_end` is set."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        """Answer one request."""
        if not visit.body.get("stream"):
            head = (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            )
            await visit.send(head % len(_PLAIN) + _PLAIN)
            return
        await visit.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        )
        while not self.may_end.is_set() and not visit.left.is_set():
            await visit.send(_CHUNK)
            await asyncio.sleep(_PACE_SECONDS)
        await visit.send(_LAST)
        visit.close()


class Configuration:
    """A file that the operator rewrites. `address` is the upstream's."""

    def __init__(self, path: Path, address: str) -> None:
        self.path = path
        self._address = address

    def write(self, *models: str, server: str = "workers = 2", more: str = "") -> None:
        """Write a configuration with these models."""
        lines = [f'[server]\n{server}\n{more}\n[[upstreams]]\nname = "u"\ndialect = "openai"']
        lines.append(f'base_url = "{self._address}/v1"')
        lines += [f'[[models]]\nid = "{name}"\ntargets = [{{ upstream = "u" }}]' for name in models]
        self.path.write_text("\n".join(lines))


class Line(Wire):
    """A connection of a client that looks before it sends."""

    def is_at_end(self) -> bool:
        """Tell whether the gateway has hung up."""
        return self._reader.at_eof()


class Site:
    """A gateway, its configuration, and what stands behind it."""

    def __init__(self, served: Served, config: Configuration, speaker: Speaker) -> None:
        self.served = served
        self.config = config
        self.speaker = speaker
        self.port = 0
        self.key = ""

    async def connect(self) -> Line:
        """Return a new connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return Line(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, model: str) -> int:
        """Return the status of a small request for `model`, over a connection of its own."""
        wire = await self.connect()
        try:
            return (await self.ask_over(wire, model)).status
        finally:
            await wire.aclose()

    async def ask_over(self, wire: Wire, model: str) -> Answer:
        """Return the answer to a small request for `model`."""
        await wire.send(self.request(model))
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await wire.answer()

    async def get(self, wire: Wire, path: str) -> Answer:
        """Return what is at `path`."""
        await wire.send(b"GET %b HTTP/1.1\r\nhost: gateway\r\n\r\n" % path.encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await wire.answer()

    def request(self, model: str, *, stream: bool = False) -> bytes:
        """Return a request as it is on the wire."""
        messages = [{"role": "user", "content": "Hi"}]
        body = json.dumps({"model": model, "messages": messages, "stream": stream}).encode()
        return request_head(self.key, content_length=len(body)) + body


class Stream:
    """One streamed answer, and whether it came whole."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def chunk(self) -> None:
        """Wait for the next chunk."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._wire.read_until(b'"content":"Hi"')

    async def end(self) -> None:
        """Wait for the end, which must be in order."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._wire.read_until(b"data: [DONE]\n\n")
            await self._wire.read_until(b"0\r\n\r\n")


@asynccontextmanager
async def streams(site: Site, model: str, count: int) -> AsyncIterator[list[Stream]]:
    """Yield so many streams of `model` that have begun."""
    async with AsyncExitStack() as closing:
        begun = []
        for _ in range(count):
            wire = await site.connect()
            closing.push_async_callback(wire.aclose)
            await wire.send(site.request(model, stream=True))
            begun.append(Stream(wire))
        await chunks(begun)
        yield begun


async def chunks(begun: Iterable[Stream]) -> None:
    """Wait for a chunk of each stream."""
    await asyncio.gather(*(stream.chunk() for stream in begun))


async def ends(begun: Iterable[Stream]) -> None:
    """Wait for the end of each stream."""
    await asyncio.gather(*(stream.end() for stream in begun))


class Load:
    """Requesters on connections that they keep. `statuses` are those of all answers.

    `lost` counts the requests that got none: the connection ended, or none came about.
    """

    def __init__(self, site: Site, model: str) -> None:
        self.statuses: Counter[int] = Counter()
        self.lost = 0
        self._site = site
        self._model = model
        self._news = asyncio.Event()

    async def answers(self, count: int) -> None:
        """Wait for so many more."""
        wanted = self.statuses.total() + count
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.statuses.total() < wanted:
                self._news.clear()
                await self._news.wait()

    async def request(self, chance: random.Random) -> None:
        """Send requests until cancelled."""
        while True:
            try:
                wire = await self._site.connect()
                try:
                    await self._keep_asking(wire, chance)
                finally:
                    await wire.aclose()
            except (asyncio.IncompleteReadError, OSError):
                self.lost += 1

    async def _keep_asking(self, wire: Line, chance: random.Random) -> None:
        while not wire.is_at_end():
            answer = await self._site.ask_over(wire, self._model)
            self.statuses[answer.status] += 1
            self._news.set()
            if answer.headers.get("connection") == "close":
                return
            await asyncio.sleep(chance.uniform(0, _LONGEST_PAUSE_SECONDS))


@asynccontextmanager
async def load(site: Site, model: str, count: int) -> AsyncIterator[Load]:
    """Let so many requesters ask for `model` meanwhile."""
    made = Load(site, model)
    tasks = [asyncio.create_task(made.request(random.Random(number))) for number in range(count)]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def site_at(
    folder: Path,
    *models: str,
    server: str = "workers = 2",
    more: str = "",
    key: str = "",
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Site]:
    """Run a gateway with these models. Without `key` it is the first on its book, and has one."""
    speaker = Speaker()
    async with Upstream(speaker) as upstream:
        config = Configuration(folder / "dragoman.toml", upstream.url)
        config.write(*models, server=server, more=more)
        async with serve(folder / "data", "--config", config.path, env=env) as served:
            site = Site(served, config, speaker)
            site.port = await served.ready()
            site.key = key or await served.key()
            yield site
