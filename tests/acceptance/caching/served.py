"""`dragoman serve` with several workers, and clients that know which of them answers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from gateway import embedded
from gateway.store import Store
from tests.acceptance.caching.model import PATIENCE_SECONDS
from tests.acceptance.test_crashes import Gateway
from tests.gateway.state_server import RealServer, program
from tests.ports import free_port
from tests.served import children

_CONFIG = """
{store}
[server]
workers = {workers}
[[upstreams]]
name = "u"
dialect = "openai"
base_url = "{url}/v1"
[[models]]
id = "m"
targets = [{{ upstream = "u" }}]
"""


class Served(Gateway):
    """The processes of one gateway. `store`: what its configuration says of the stores."""

    def __init__(self, folder: Path, url: str, *, workers: int, store: str = "") -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder, 0, free_port())
        self._config.write_text(_CONFIG.format(url=url, workers=workers, store=store))
        self._count = workers

    @property
    def workers(self) -> list[int]:
        """Their process ids."""
        return [pid for pid, line in children(self.process.pid).items() if "gateway.worker" in line]

    async def pinned(
        self, closing: AsyncExitStack, worker: int, count: int
    ) -> list[httpx.AsyncClient]:
        """Return clients that each keep one connection, to this worker.

        The others are stopped meanwhile, so that none but this one accepts.
        """
        clients = [await closing.enter_async_context(self.client()) for _ in range(count)]
        others = [pid for pid in self.workers if pid != worker]
        _signal(others, signal.SIGSTOP)
        try:
            await until(_at_once(lambda: _states(others)), lambda states: states <= {"T"})
            await asyncio.gather(*(client.get("/models") for client in clients))
        finally:
            _signal(others, signal.SIGCONT)
        return clients

    def client(self) -> httpx.AsyncClient:
        """Return a client of one connection."""
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}/v1",
            headers={"authorization": f"Bearer {self.key}"},
            limits=httpx.Limits(max_connections=1, keepalive_expiry=None),
            trust_env=False,
            timeout=2 * PATIENCE_SECONDS,
            verify=False,  # certificates take long to load
        )

    async def complete(self, cache: Store) -> list[int]:
        """Return all workers, once each of them hears the others."""
        await until(_at_once(lambda: self.workers), lambda pids: len(pids) == self._count)
        await hear_each_other(cache, self._count)
        return self.workers


@asynccontextmanager
async def stores_of(data_dir: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Yield the state and the cache store of a gateway that runs."""
    state_url, cache_url = embedded.urls(data_dir)
    async with store_at(state_url) as state, store_at(cache_url) as cache:
        yield state, cache


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[Store]:
    """Yield a patient client of a store."""
    store = Store(url, timeout_seconds=PATIENCE_SECONDS)
    try:
        yield store
    finally:
        await store.aclose()


@contextmanager
def server_pair(folder: Path, *options: str) -> Iterator[tuple[RealServer, RealServer]]:
    """Run a server for state, and one for the cache with these options of its own."""
    with ExitStack() as closing:
        servers = []
        for name, given in (("s", ()), ("c", options)):
            (folder / name).mkdir(parents=True)
            servers.append(RealServer(program("valkey"), folder / name, *given))
            closing.callback(servers[-1].kill)
        yield servers[0], servers[1]


async def hear_each_other(cache: Store, workers: int) -> None:
    """Wait until so many workers listen to what others tell them."""
    await until(
        lambda: cache.call("PUBSUB", "CHANNELS", "flights:*"),
        lambda channels: len(channels) == workers,
    )


async def under_way(state: Store, count: int) -> None:
    """Wait until so many requests are admitted and not settled."""

    async def look() -> int:
        return sum([await state.call("HLEN", key) for key in await state.call("KEYS", "leases:*")])

    await until(look, lambda held: held == count)


async def until(look: Callable[[], Awaitable[Any]], is_it: Callable[[Any], bool]) -> Any:
    """Return what `look` returns once it is as it should be."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_it(found := await look()):  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.02)
    return found


def _at_once(look: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def asynchronous() -> Any:
        return look()

    return asynchronous


def _states(pids: Sequence[int]) -> set[str]:
    """Return the letters that the kernel has for what processes do."""
    texts = [Path(f"/proc/{pid}/stat").read_text() for pid in pids]
    return {text.rpartition(")")[2].split()[0] for text in texts}


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)
