"""What the gateways share: a cluster for state, a server for the cache, PostgreSQL for the book."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import Cluster, own_cluster
from tests.gateway.state_server import RealServer, program
from tests.postgres import PostgresServer, find_programs

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
    with _book_url() as book_url:
        for name in ("state", "cache"):
            (folder / name).mkdir()
        cache = RealServer(program("valkey"), folder / "cache", *_CACHE)
        try:
            with own_cluster(folder / "state") as cluster:
                yield SharedStores(cluster, cache.url, book_url)
        finally:
            cache.kill()


@contextmanager
def _book_url() -> Iterator[str]:
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    # Not under pytest's directory, which the server's user may not enter.
    with tempfile.TemporaryDirectory(prefix="dragoman-postgres-") as folder:
        server = PostgresServer(programs, Path(folder))
        server.create()
        server.start()
        try:
            server.execute("CREATE DATABASE book")
            yield server.url("book")
        finally:
            server.stop()
