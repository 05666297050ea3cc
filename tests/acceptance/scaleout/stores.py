"""What the gateways share: a cluster for state, a server for the cache, PostgreSQL for the book."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import Cluster, own_cluster
from tests.gateway.state_server import RealServer, program
from tests.postgres import postgres_server

_CACHE = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lfu")


@dataclass(frozen=True, slots=True)
class SharedStores:
    """The three of them. `cache_url` and `book_url` are what a gateway is told."""

    cluster: Cluster
    cache_url: str
    book_url: str

    @property
    def config(self) -> str:
        """What a configuration says of them."""
        return (
            f'[store]\nstate = "{self.cluster.url}"\ncache = "{self.cache_url}"\n'
            f'book = "{self.book_url}"\n'
        )


@contextmanager
def shared_stores(folder: Path) -> Iterator[SharedStores]:
    """Run them, all empty. Skips the test where there is no PostgreSQL."""
    with postgres_server() as postgres:
        postgres.execute("CREATE DATABASE book")
        for name in ("state", "cache"):
            (folder / name).mkdir()
        cache = RealServer(program("valkey"), folder / "cache", *_CACHE)
        try:
            with own_cluster(folder / "state") as cluster:
                yield SharedStores(cluster, cache.url, postgres.url("book"))
        finally:
            cache.kill()
