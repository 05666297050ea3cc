"""Answers and locks in the cache store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.cache.shelf import Away, Found, Held, Shelf, Won
from gateway.store import Store
from tests.gateway.state_server import PROGRAMS, RealServer, program
from tests.patience import PATIENCE_SECONDS, Stopwatch

pytestmark = pytest.mark.anyio

KEY, LOCK = "answer:{d}:m:s", "flight:{d}"
TIMEOUT_SECONDS = 0.2


@pytest.fixture(params=PROGRAMS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealServer]:
    server = RealServer(program(request.param), tmp_path)
    yield server
    server.go_on()
    server.kill()


@pytest.fixture
async def store(server: RealServer) -> AsyncIterator[Store]:
    store = Store(server.url, timeout_seconds=PATIENCE_SECONDS)
    yield store
    await store.aclose()


@pytest.fixture
def shelf(store: Store) -> Shelf:
    return Shelf(store)


async def test_the_first_to_look_wins_and_the_others_learn_who_it_is(shelf: Shelf) -> None:
    looks = [shelf.look(KEY, LOCK, token=f"w:{i}") for i in range(3)]
    assert await asyncio.gather(*looks) == [Won(), Held("w:0"), Held("w:0")]


async def test_what_is_kept_is_found_and_the_lock_is_free(shelf: Shelf, store: Store) -> None:
    await shelf.look(KEY, LOCK, token="w:1")
    assert await shelf.keep(KEY, LOCK, token="w:1", value=b"\x00v", ttl_ms=60_000)
    assert await shelf.look(KEY, LOCK, token="w:2") == Found(b"\x00v")
    assert await shelf.get(KEY) == Found(b"\x00v")
    assert await store.call("EXISTS", LOCK) == 0
    assert 50_000 < await store.call("PTTL", KEY) <= 60_000


async def test_a_look_anew_does_not_mind_what_is_kept(shelf: Shelf) -> None:
    await shelf.keep(KEY, LOCK, token="", value=b"v", ttl_ms=60_000)
    assert await shelf.look(KEY, LOCK, token="w:1", anew=True) == Won()
    assert await shelf.look(KEY, LOCK, token="w:2", anew=True) == Held("w:1")


async def test_get_takes_no_lock(shelf: Shelf, store: Store) -> None:
    assert await shelf.get(KEY) is None
    assert await store.call("DBSIZE") == 0


async def test_a_lock_ends_by_itself(store: Store) -> None:
    await Shelf(store).look(KEY, LOCK, token="w:1")
    assert 0 < await store.call("PTTL", LOCK) <= 5000


async def test_a_dead_holder_is_replaced_by_one(shelf: Shelf) -> None:
    await shelf.look(KEY, LOCK, token="w:1")
    looks = [shelf.look(KEY, LOCK, token=f"v:{i}", dead="w:1") for i in range(3)]
    assert await asyncio.gather(*looks) == [Won(), Held("v:0"), Held("v:0")]


async def test_only_the_holder_lets_go_of_a_lock(shelf: Shelf, store: Store) -> None:
    await shelf.look(KEY, LOCK, token="w:1")
    assert await shelf.release(LOCK, "w:2") == 0
    await shelf.keep(KEY, LOCK, token="w:2", value=b"v", ttl_ms=1000)
    assert await store.call("GET", LOCK) == b"w:1"
    assert await shelf.release(LOCK, "w:1") == 1
    assert await store.call("EXISTS", LOCK) == 0


async def test_renewing_prolongs_a_lock_and_restores_a_lost_one(shelf: Shelf, store: Store) -> None:
    await shelf.look(KEY, LOCK, token="w:1")
    await store.call("PEXPIRE", LOCK, 2500)
    assert await shelf.renew(LOCK, "w:2") == 0
    assert await store.call("PTTL", LOCK) <= 2500
    assert await shelf.renew(LOCK, "w:1") == 1
    assert await store.call("PTTL", LOCK) > 2500
    await store.call("DEL", LOCK)
    assert await shelf.renew(LOCK, "w:1") == 1
    assert await store.call("GET", LOCK) == b"w:1"


async def test_foreign_bytes_in_a_lock_can_be_replaced(shelf: Shelf, store: Store) -> None:
    await store.call("SET", LOCK, b"\xff\xfe")
    held = await shelf.look(KEY, LOCK, token="w:1")
    assert isinstance(held, Held)
    assert await shelf.look(KEY, LOCK, token="w:1", dead=held.holder) == Won()


async def test_nobody_wins_whose_answer_has_just_been_kept(
    server: RealServer, shelf: Shelf
) -> None:
    """Two connections race; whatever the order, an answer is made once."""
    others = Store(server.url, timeout_seconds=PATIENCE_SECONDS)
    other = Shelf(others)
    for i in range(100):
        key, lock = f"answer:{{{i}}}", f"flight:{{{i}}}"
        assert await shelf.look(key, lock, token="w:1") == Won()
        keeping = asyncio.ensure_future(
            shelf.keep(key, lock, token="w:1", value=b"v", ttl_ms=60_000)
        )
        looks = await asyncio.gather(*(other.look(key, lock, token=f"v:{j}") for j in range(20)))
        await keeping
        assert set(looks) <= {Held("w:1"), Found(b"v")}
    await others.aclose()


async def test_looks_of_one_turn_leave_in_one_write(shelf: Shelf, store: Store) -> None:
    await shelf.look(KEY, LOCK, token="w:0")
    before = await _reads(store)
    await asyncio.gather(*(shelf.look(KEY, LOCK, token=f"w:{i}") for i in range(100)))
    assert await _reads(store) - before <= 3


async def test_a_value_of_another_type_is_trouble_until_it_is_replaced(
    shelf: Shelf, store: Store
) -> None:
    await store.call("RPUSH", KEY, "x")
    assert await shelf.look(KEY, LOCK, token="w:1") == Away()
    assert await shelf.get(KEY) == Away()
    assert shelf.troubles == 2
    assert await shelf.keep(KEY, LOCK, token="", value=b"v", ttl_ms=60_000)
    assert await shelf.get(KEY) == Found(b"v")


@pytest.mark.parametrize("trouble", ["hang", "kill"])
async def test_a_store_in_trouble_is_away_within_its_timeout(
    server: RealServer, trouble: str
) -> None:
    store = Store(server.url, timeout_seconds=TIMEOUT_SECONDS)
    shelf = Shelf(store)
    await shelf.look(KEY, LOCK, token="w:1")
    getattr(server, trouble)()
    calls = (
        shelf.look(KEY, LOCK, token="w:2"),
        shelf.get(KEY),
        shelf.keep(KEY, LOCK, token="w:1", value=b"v", ttl_ms=1000),
        asyncio.wait([shelf.release(LOCK, "w:1"), shelf.renew(LOCK, "w:1")]),
    )
    async with Stopwatch() as watch:
        look, get, keep, _ = await asyncio.gather(*calls)
    assert watch.seconds < 2 * TIMEOUT_SECONDS
    assert (look, get, keep) == (Away(), Away(), False)
    assert shelf.troubles == 5
    if trouble == "kill":
        server.start()
    await store.aclose()


async def _reads(store: Store) -> int:
    info = (await store.call("INFO", "stats")).decode()
    line = next(line for line in info.splitlines() if line.startswith("total_reads_processed"))
    return int(line.partition(":")[2])
