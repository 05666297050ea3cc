"""Three gateways that share their stores and nothing else, as three machines would."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from gateway.accounts import Account, shard_keys
from gateway.book import Book, KeyOptions, UsageFilter
from gateway.config_file import load
from gateway.keys import digest, generate
from gateway.ledger_stream import stream_key
from gateway.limits import Limits
from gateway.reconcile import Difference, reconcile
from gateway.store import Store, StoreRefused, StoreUnavailable
from gateway.writer import LEASE_KEY
from tests.acceptance.scaleout.caller import Caller
from tests.acceptance.scaleout.model import Model
from tests.acceptance.scaleout.stores import SharedStores
from tests.patience import PATIENCE_SECONDS
from tests.ports import free_port
from tests.scripted_upstream import Upstream
from tests.served import Served, serve

T = TypeVar("T")

GATEWAYS = 3
PEPPER = "a pepper that all gateways share, as they share their keys"
ADMIN_KEY = "an admin key that all gateways share"
_CONFIG = """
{store}expected_workers = {gateways}
[logs]
access = false
[[upstreams]]
name = "u"
dialect = "openai"
base_url = "{url}/v1"
[[models]]
id = "m"
targets = [{{ upstream = "u" }}]
price = {{ input_usd_per_million = 0.3, output_usd_per_million = 0.7 }}
"""


class Gateway:
    """`dragoman serve` on one port and data directory, however often it is begun anew."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.port = free_port()
        self.data_dir = folder
        self.config = config
        self._closing = AsyncExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Return when it serves."""
        env = {"DRAGOMAN_PEPPER": PEPPER, "DRAGOMAN_ADMIN_KEY": ADMIN_KEY}
        options = ("--config", self.config, "--port", str(self.port))
        serving = serve(self.data_dir, *options, env=env)
        self.served: Served = await self._closing.enter_async_context(serving)
        await self.served.ready()

    async def stop(self) -> int:
        """End it as an operator would and return its exit code."""
        code = await self.served.end(signal.SIGTERM)
        await self.aclose()
        return code

    async def reload(self) -> None:
        """Return when a new generation serves."""
        self.served.process.send_signal(signal.SIGHUP)
        await self.served.says("reloaded in ")

    async def kill(self) -> None:
        """End the parent and its workers at once, as a machine that loses its power does."""
        workers = self.served.workers()
        for pid in (self.served.process.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        await self.aclose()

    async def aclose(self) -> None:
        """Kill what is left of it."""
        await self._closing.aclose()


@dataclass(frozen=True, slots=True)
class Customer:
    """A key, and how many records its shard had been told when the key was made."""

    key: str
    id: str
    shard: int
    told_before: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """The gateways, what they share, and what stands behind them."""

    gateways: Sequence[Gateway]
    stores: SharedStores
    upstream: Upstream
    model: Model
    book: Book
    state: Store

    def callers(self, key: str, count: int) -> list[Caller]:
        """Return so many clients; as many begin with one gateway as with another."""
        ports = [gateway.port for gateway in self.gateways]
        return [Caller(ports, key, first=number) for number in range(count)]

    async def customer(self, *, shards: Iterable[int] = range(64), **limits: Any) -> Customer:
        """Return a new one with these limits, in one of these shards."""
        new = generate()
        while Account.of(key_id=new.id).shard not in shards:
            new = generate()
        options = KeyOptions(name="test", limits=Limits(**limits))
        await self.book.create_key(new.id, digest(new.text, PEPPER.encode()), options=options)
        shard = Account.of(key_id=new.id).shard
        return Customer(new.text, new.id, shard, await self._told(shard))

    async def records(self, customer: Customer, count: int) -> dict[str, str]:
        """Wait until the book has so many records of a key; return how each request ended.

        Each was told to the ledger once, which is where the book would hide a second time.
        """
        which = UsageFilter(key_id=customer.id)

        async def look() -> list[Any]:
            return [row async for page in self.book.usage_rows(which) for row in page]

        rows = await until(look, lambda rows: len(rows) >= count)
        assert await self._told(customer.shard) - customer.told_before == len(rows)
        return {row["request_id"]: row["status"] for row in rows}

    async def under_way(self, customer: Customer) -> list[str]:
        """Return the ids of the requests of a key's shard that are admitted and not settled."""
        _, leases, *_ = shard_keys(customer.shard)
        return [id_.decode() for id_ in await self.state.call("HKEYS", leases)]

    async def expire(self, customer: Customer) -> None:
        """Let a minute pass for the leases of a key's shard: nobody prolongs them."""
        _, _, expiry, _ = shard_keys(customer.shard)
        for id_ in await self.under_way(customer):
            await self.state.call("ZADD", expiry, "XX", 0, id_)

    async def differences(self) -> list[Difference]:
        """Return where counters and ledger do not agree."""
        gateway = self.gateways[0]
        return await reconcile(load(gateway.config), gateway.data_dir, self.book)

    async def let_lead(self, gateway: Gateway) -> None:
        """Make a gateway's writer the one that writes: the others are stopped meanwhile."""
        with stopped(*(one.served.process.pid for one in self.gateways if one is not gateway)):
            await self.state.call("DEL", LEASE_KEY)
            await until(self.leader, bool)

    async def leader(self) -> bytes | None:
        """Return what tells the writer that leads from the others, None if there is none."""
        token: bytes | None = await self.state.call("GET", LEASE_KEY)
        return token

    async def get(self, path: str, key: str) -> list[httpx.Response]:
        """Return what each gateway has at `path`."""
        async with client(key) as http:
            return [await http.get(f"{gateway.url}{path}") for gateway in self.gateways]

    async def _told(self, shard: int) -> int:
        try:
            told = await self.state.call("XINFO", "STREAM", stream_key(shard))
        except StoreRefused:  # there is no stream before its first record
            return 0
        added: int = dict(zip(told[::2], told[1::2], strict=True))[b"entries-added"]
        return added


@asynccontextmanager
async def running_fleet(folder: Path, stores: SharedStores) -> AsyncIterator[Fleet]:
    """Start the gateways, all at once on an empty book, and end them with exit code 0."""
    model = Model()
    async with AsyncExitStack() as closing:
        upstream = await closing.enter_async_context(Upstream(model))
        config = folder / "dragoman.toml"
        config.write_text(_CONFIG.format(store=stores.config, gateways=GATEWAYS, url=upstream.url))
        gateways = [Gateway(folder / str(number), config) for number in range(GATEWAYS)]
        for gateway in gateways:
            closing.push_async_callback(gateway.aclose)
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        book = await Book.open(stores.book_url)
        closing.push_async_callback(book.aclose)
        state = Store(stores.cluster.url, timeout_seconds=PATIENCE_SECONDS, probe_seconds=0.1)
        closing.push_async_callback(state.aclose)
        yield Fleet(gateways, stores, upstream, model, book, state)
        assert await asyncio.gather(*(gateway.stop() for gateway in gateways)) == [0, 0, 0]


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let processes do nothing meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def client(key: str) -> httpx.AsyncClient:
    """Return a client that shows `key`."""
    return httpx.AsyncClient(
        headers={"authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=PATIENCE_SECONDS,
        verify=False,  # certificates take long to load
    )


async def until(look: Callable[[], Awaitable[T]], is_it: Callable[[T], object]) -> T:
    """Return what `look` returns once it is as it should be. A store may be away meanwhile."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(StoreUnavailable):
                if is_it(found := await look()):
                    return found
            await asyncio.sleep(0.02)
