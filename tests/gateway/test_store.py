import asyncio
import logging
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.breaker import Breaker
from gateway.store import Script, Store, StoreRefused, Stores, StoreUnavailable
from tests.gateway.state_server import PROGRAMS, RealServer, program, proxy, scripted
from tests.own_loop import in_own_loop
from tests.patience import PATIENCE_SECONDS, Stopwatch, within

pytestmark = pytest.mark.anyio

SCRIPT = Script("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}")
NOWHERE = "unix:///nowhere"
TIMEOUT_SECONDS = 0.3  # three of them in a row are less than a second
BOTH = pytest.mark.parametrize("path", PROGRAMS, indirect=True)


@pytest.fixture(scope="module", params=["valkey"])
def path(request: pytest.FixtureRequest) -> str:
    return program(request.param)


@pytest.fixture
def server(path: str, tmp_path: Path) -> Iterator[RealServer]:
    started = RealServer(path, tmp_path)
    yield started
    started.kill()


@pytest.fixture
async def store(server: RealServer) -> AsyncIterator[Store]:
    async with opened(server.url, probe_seconds=0.01) as store:
        yield store


@asynccontextmanager
async def opened(
    url: str, *, probe_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Store]:
    store = Store(url, timeout_seconds=TIMEOUT_SECONDS, probe_seconds=probe_seconds, clock=clock)
    yield store
    await store.aclose()


class Changes:
    """What a store told of its availability."""

    def __init__(self, store: Store) -> None:
        self.seen: list[bool] = []
        self._came = asyncio.Event()
        store.on_change = self._note

    def _note(self, is_available: bool) -> None:
        self.seen.append(is_available)
        self._came.set()

    async def next(self) -> bool:
        """Wait for one more change."""
        self._came.clear()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._came.wait()
        return self.seen[-1]


async def fail(store: Store, times: int) -> list[float]:
    """Make calls that must fail, one after the other; return how many seconds each took."""
    seconds = []
    for _ in range(times):
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.call("INCR", "count")
        seconds.append(time.monotonic() - start)
    return seconds


@BOTH
async def test_script_gets_keys_and_arguments_as_bytes_texts_or_numbers(store: Store) -> None:
    calls = [
        store.run(SCRIPT, ["key"], [b"bytes"]),
        store.run(SCRIPT, (b"key",), ("é",)),
        store.run(SCRIPT, ("key",), (-5,)),
    ]

    assert await asyncio.gather(*calls) == [
        [b"key", b"bytes", 1],
        [b"key", "é".encode(), 2],
        [b"key", b"-5", 3],
    ]


@BOTH
async def test_script_that_the_server_has_forgotten_runs_once_all_the_same(
    store: Store,
) -> None:
    await store.run(SCRIPT, ("key",), (0,))
    await store.call("SCRIPT", "FLUSH")

    again = await asyncio.gather(*(store.run(SCRIPT, ("key",), (at,)) for at in range(10)))

    assert [count for _, _, count in again] == list(range(2, 12))


@BOTH
async def test_refusal_is_no_outage(store: Store) -> None:
    for _ in range(5):
        with pytest.raises(StoreRefused):
            await store.run(Script("return redis.error_reply('NOPE at all')"), (), ())

    assert store.is_available


async def test_hung_server_costs_a_quarter_second_once_and_is_back_within_one_and_a_half(
    server: RealServer,
) -> None:
    store = Store(server.url)
    changes = Changes(store)
    await store.call("SET", "count", 5)

    server.hang()
    async with Stopwatch() as watch:
        first = await asyncio.gather(*(fail(store, 1) for _ in range(10)))
    later = await fail(store, 100)
    server.go_on()
    async with within(1.5):
        is_available = await changes.next()

    assert max(seconds for [seconds] in first) >= 0.25
    assert watch.seconds < 2 * 0.25
    assert statistics.median(later) < 0.05
    assert changes.seen == [False, True]
    assert is_available and store.is_available
    # What was sent was lost on the way back; what failed at once was never sent.
    assert await store.call("GET", "count") == b"15"
    await store.aclose()


async def test_no_call_waits_longer_than_the_timeout_before_calls_fail_at_once(
    server: RealServer, store: Store
) -> None:
    await store.call("PING")
    server.hang()

    async with Stopwatch() as watch:
        seconds = await fail(store, 3)
    later = await fail(store, 5)

    assert min(seconds) >= TIMEOUT_SECONDS
    assert watch.seconds < 4 * TIMEOUT_SECONDS
    assert min(later) < TIMEOUT_SECONDS / 10


async def test_server_that_goes_on_too_early_is_asked_again_at_once(
    server: RealServer, store: Store
) -> None:
    server.hang()
    await fail(store, 2)
    server.go_on()

    assert await store.call("ECHO", "hello") == b"hello"
    assert store.is_available


@BOTH
async def test_killed_server_fails_calls_at_once_until_its_successor_answers(
    server: RealServer, store: Store
) -> None:
    changes = Changes(store)
    await store.call("PING")

    server.kill()
    async with Stopwatch() as watch:
        await fail(store, 5)
    server.start()

    assert changes.seen == [False]
    assert await changes.next()
    assert watch.seconds < TIMEOUT_SECONDS
    assert await store.call("ECHO", "hello") == b"hello"


async def test_three_failures_within_a_second_stop_all_calls() -> None:
    async with opened(NOWHERE) as store:
        changes = Changes(store)

        await fail(store, 2)
        before = list(changes.seen)
        await fail(store, 1)

    assert before == []
    assert changes.seen == [False]
    assert not store.is_available


async def test_failures_further_apart_stop_nothing() -> None:
    now = 100.0
    async with opened(NOWHERE, clock=lambda: now) as store:
        for _ in range(5):
            await fail(store, 1)
            now += 0.6
        assert store.is_available

        now -= 0.3
        await fail(store, 1)
        assert not store.is_available


@in_own_loop
async def test_failures_while_open_change_nothing() -> None:
    changes: list[bool] = []
    breaker = Breaker(asyncio.Event().wait, on_change=changes.append)
    before = asyncio.all_tasks()

    for _ in range(3):
        breaker.fail(5)

    assert changes == [False]
    assert len(asyncio.all_tasks() - before) == 1
    await breaker.aclose()


async def test_recovered_store_is_given_three_failures_again(tmp_path: Path) -> None:
    says = b"-READONLY replica\r\n"

    def answer(command: list[bytes]) -> bytes:
        return says if command[0] == b"INCR" else b"+PONG\r\n"

    async with scripted(tmp_path, answer) as url, opened(url, probe_seconds=0.001) as store:
        changes = Changes(store)
        await fail(store, 3)
        await changes.next()
        await fail(store, 2)

        assert store.is_available
        assert changes.seen == [False, True]


async def test_calls_that_begin_anew_do_so_on_a_new_connection(tmp_path: Path) -> None:
    commands: list[bytes] = []

    def answer(command: list[bytes]) -> bytes:
        commands.append(command[0])
        return b"-READONLY replica\r\n" if command[0] == b"INCR" else b"+PONG\r\n"

    async with scripted(tmp_path, answer) as url, opened(url, probe_seconds=0.001) as store:
        changes = Changes(store)
        await fail(store, 3)
        await changes.next()
        await store.call("GET", "key")

    probe = [b"CLIENT", b"PING"]
    assert commands == [b"CLIENT", *[b"INCR"] * 3, *probe, b"CLIENT", b"GET"]


@BOTH
async def test_server_that_became_a_replica_is_unavailable(server: RealServer) -> None:
    async with opened(server.url) as store:
        await store.call("REPLICAOF", "127.0.0.1", 1)

        await fail(store, 3)

        assert not store.is_available


async def test_server_that_loads_its_data_is_not_back_yet(tmp_path: Path) -> None:
    pings = 0

    def answer(command: list[bytes]) -> bytes:
        nonlocal pings
        if command[0] == b"CLIENT":
            return b"+OK\r\n"
        pings += command[0] == b"PING"
        return b"+PONG\r\n" if pings == 3 else b"-LOADING the data\r\n"

    async with scripted(tmp_path, answer) as url, opened(url, probe_seconds=0.001) as store:
        changes = Changes(store)
        await fail(store, 3)

        assert await changes.next()
        assert pings == 3


async def test_each_change_is_one_line_in_the_log(
    server: RealServer, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    changes = Changes(store)
    await store.call("PING")
    server.kill()
    await fail(store, 10)
    server.start()
    await changes.next()

    assert [(record.levelno, record.name) for record in caplog.records] == [
        (logging.WARNING, "gateway.node")
    ] * 2
    down, up = caplog.messages
    assert "No such file" in down or "refused" in down
    assert "answers again" in up


@pytest.mark.parametrize("calls", [0, 1, 5])
@in_own_loop
async def test_close_leaves_neither_task_nor_socket(server: RealServer, calls: int) -> None:
    before = asyncio.all_tasks()
    store = Store(server.url, timeout_seconds=TIMEOUT_SECONDS, probe_seconds=0.001)
    await store.call("PING")
    server.hang()
    waiting = [store.call("ECHO", number) for number in range(calls)]
    if waiting:
        await asyncio.wait(waiting)

    await store.aclose()

    assert asyncio.all_tasks() == before
    assert all(isinstance(call.exception(), StoreUnavailable) for call in waiting)
    await fail(store, 1)


async def lacks(stores: Stores, *names: str) -> None:
    """Wait until just these do not answer: in the cache's 50 ms a busy machine may fail, too."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await stores.missing() != dict.fromkeys(names, "StoreUnavailable"):
            pass


async def test_stores_that_answer_are_not_missing(server: RealServer) -> None:
    async with Stores(state_url=server.url, cache_url=server.url) as stores:
        await lacks(stores)
        assert await stores.state.call("ECHO", "hello") == b"hello"


async def test_store_that_is_not_there_is_missing(server: RealServer) -> None:
    async with Stores(state_url=NOWHERE, cache_url=server.url) as stores:
        await lacks(stores, "state store")
    async with Stores(state_url=server.url, cache_url=NOWHERE) as stores:
        await lacks(stores, "cache store")


async def test_part_of_a_cluster_is_told_and_is_not_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def two_away(_: Store) -> int:
        return 2

    monkeypatch.setattr(Store, "ping", two_away)
    async with Stores(state_url=NOWHERE, cache_url=NOWHERE) as stores:
        assert await stores.missing() == {
            "part of the state store": "2 of its masters away",
            "part of the cache store": "2 of its masters away",
        }


async def test_hung_stores_are_missing_after_a_quarter_of_a_second(server: RealServer) -> None:
    async with Stores(state_url=server.url, cache_url=server.url) as stores:
        server.hang()
        start = time.monotonic()
        async with Stopwatch() as watch:
            missing = await stores.missing()
        seconds = time.monotonic() - start

    assert [line.partition(":")[0] for line in missing] == ["state store", "cache store"]
    assert seconds >= 0.25
    assert watch.seconds < 2 * 0.25


async def test_state_store_that_is_not_asked_for_now_is_missing(
    server: RealServer, tmp_path: Path
) -> None:
    async with Stores(state_url=server.url, cache_url=server.url) as stores:
        server.kill()
        await fail(stores.state, 3)
        server.start()

        await lacks(stores, "state store")


async def test_ping_takes_no_longer_than_the_timeout_in_all(server: RealServer) -> None:
    async with proxy(server.socket, delay_seconds=0.6 * TIMEOUT_SECONDS) as port:
        store = Store(f"redis://127.0.0.1:{port}", timeout_seconds=TIMEOUT_SECONDS)
        start = time.monotonic()
        async with Stopwatch() as watch:
            with pytest.raises(StoreUnavailable):
                await store.ping()
        seconds = time.monotonic() - start

    assert seconds >= TIMEOUT_SECONDS
    assert watch.seconds < 2 * TIMEOUT_SECONDS


def test_url_of_no_store_is_refused() -> None:
    with pytest.raises(ValueError, match="URL"):
        Store("http://host")
