"""A store that is a cluster: where calls go, and what becomes of them while it changes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import gateway.cluster
from gateway.accounts import SHARDS, tag
from gateway.slots import Range, slot_of
from gateway.store import Script, Store, StoreRefused, StoreUnavailable
from tests.cluster import Cluster, Member, own_cluster, until
from tests.gateway.state_server import PROGRAMS, RealServer, program, proxy
from tests.own_loop import in_own_loop
from tests.patience import PATIENCE_SECONDS, Stopwatch, within

pytestmark = pytest.mark.anyio

TIMEOUT_SECONDS = 0.25
SWAP = Script(
    "local old = redis.call('GET', KEYS[1]) redis.call('SET', KEYS[1], ARGV[1]) return old"
)
BOTH = Script("return redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])")
KEYS = tuple(f"count:{tag(shard)}" for shard in range(SHARDS))


@pytest.fixture(scope="module", params=["valkey"])
def formed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with own_cluster(tmp_path_factory.mktemp("own"), kind=request.param) as formed:
        yield formed


@pytest.fixture
def own(formed: Cluster) -> Cluster:
    """Three masters without keys. A test may change who they are, if it leaves as many."""
    for member in formed.masters:
        member.ask("FLUSHALL")
    return formed


@asynccontextmanager
async def opened(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> AsyncIterator[Store]:
    store = Store(url, timeout_seconds=timeout_seconds, probe_seconds=0.1)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[Store]:
    async with opened(cluster.url, timeout_seconds=2) as store:
        await store.each("FLUSHALL")
        yield store


async def outcomes(store: Store, keys: tuple[str, ...] = KEYS) -> list[Any]:
    """Return what an INCR of each key says, an error included."""
    calls = (store.call("INCR", key) for key in keys)
    return await asyncio.gather(*calls, return_exceptions=True)


def aside(work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    """Do what blocks, such as changing the cluster, beside the loop."""
    return asyncio.ensure_future(asyncio.to_thread(work, *args))


async def test_every_shard_is_asked_where_it_is(cluster: Cluster, store: Store) -> None:
    assert await outcomes(store) == [1] * SHARDS

    held = [set(member.ask("KEYS", "*")) for member in cluster.members]
    assert sorted(key for keys in held for key in keys) == sorted(KEYS)
    assert all(held)
    for member, keys in zip(cluster.members, held, strict=True):
        assert all(cluster.owner(key) is member for key in keys)


async def test_a_script_runs_where_its_keys_are(store: Store) -> None:
    answers = [await store.run(BOTH, (key, f"{key}.other"), ()) for key in KEYS]
    assert answers == [2] * SHARDS


async def test_a_call_without_a_key_goes_to_any_server(store: Store) -> None:
    assert await store.call("PING") == b"PONG"
    assert len(await store.call("TIME")) == 2
    assert await store.run(Script("return ARGV[1]"), (), ("x",)) == b"x"


async def test_what_concerns_all_servers_is_asked_of_each(cluster: Cluster, store: Store) -> None:
    await outcomes(store)
    sizes = await store.each("DBSIZE")
    assert sorted(sizes) == sorted(member.ask("DBSIZE") for member in cluster.members)
    assert sum(sizes) == SHARDS


async def test_all_keys_of_all_servers_are_scanned(store: Store) -> None:
    await outcomes(store)
    await store.call("SET", "other", 1)
    pages = [page async for page in store.scan("count:*", page=5)]
    assert {key.decode() for page in pages for key in page} == set(KEYS)
    assert len(pages) > 3


async def test_any_seed_will_do(cluster: Cluster) -> None:
    _, _, last = cluster.url.partition("://")[2].split(",")
    async with opened(f"redis+cluster://127.0.0.1:1,127.0.0.1:2,{last}/") as store:
        assert await outcomes(store, KEYS[:9])
        assert store.is_available


async def test_calls_before_the_map_is_known_keep_their_order(cluster: Cluster) -> None:
    async with opened(cluster.url) as store:
        await store.call("DEL", "order")
    async with opened(cluster.url) as store:
        calls = [store.call("RPUSH", "order", number) for number in range(20)]
        assert await asyncio.gather(*calls) == list(range(1, 21))


async def test_without_any_seed_calls_fail_soon_and_then_at_once() -> None:
    async with opened("redis+cluster://127.0.0.1:1,127.0.0.1:2") as store:
        changes: list[bool] = []
        store.on_change = changes.append
        async with within(4 * TIMEOUT_SECONDS):
            with pytest.raises(StoreUnavailable, match="no map"):
                await store.call("GET", "key")
        later = store.call("GET", "key")
        assert later.done() and later.exception()
        await asyncio.sleep(0)
        assert (changes, store.is_available) == ([False], False)
        with pytest.raises(StoreUnavailable):
            await store.ping()


async def test_a_server_that_is_no_cluster_says_so(tmp_path: Path) -> None:
    server = RealServer(program("valkey"), tmp_path)
    try:
        async with (
            proxy(server.socket) as port,
            opened(f"redis+cluster://127.0.0.1:{port}") as store,
        ):
            with pytest.raises(StoreUnavailable, match="cluster support disabled"):
                await store.call("GET", "key")
    finally:
        server.kill()


async def test_a_single_url_of_a_cluster_tells_how_to_spell_it(cluster: Cluster) -> None:
    async with opened(cluster.urls[0]) as store:
        answers = await outcomes(store)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert 0 < len(refused) < SHARDS
    assert all(isinstance(error, StoreUnavailable) for error in refused)
    assert all("redis+cluster://" in str(error) for error in refused)


async def test_nothing_is_lost_or_doubled_while_slots_move(cluster: Cluster, store: Store) -> None:
    moving = KEYS[:12]
    homes = [cluster.owner(key) for key in moving]
    done: list[int] = []
    is_over = False

    async def count(key: str) -> None:
        while not is_over:
            done.append(await store.call("INCR", key))

    def move(to: list[Member]) -> None:
        for key, member in zip(moving, to, strict=True):
            cluster.move_slot(key, member)

    counting = [asyncio.create_task(count(key)) for key in moving for _ in range(3)]
    others = [cluster.members[(cluster.members.index(home) + 1) % 3] for home in homes]
    await aside(move, others)
    assert [cluster.owner(key) for key in moving] == others
    await aside(move, homes)
    is_over = True
    await asyncio.gather(*counting)

    counts = [int(await store.call("GET", key)) for key in moving]
    assert sum(counts) == len(done) > 100
    assert all(counts)


async def test_a_key_that_has_gone_ahead_is_found(cluster: Cluster, store: Store) -> None:
    key = KEYS[0]
    source = cluster.owner(key)
    to = next(member for member in cluster.members if member is not source)
    await store.call("SET", key, "value")
    to.ask("SCRIPT", "FLUSH")
    cluster.begin_move(key, to)
    try:
        before = await store.call("GET", key)
        cluster.move_keys(key, to)
        assert (before, await store.call("GET", key)) == (b"value", b"value")
        assert await store.run(SWAP, (key,), ("new",)) == b"value"
        assert source.ask("CLUSTER", "COUNTKEYSINSLOT", slot_of(key)) == 0
        assert await store.call("GET", key) == b"new"
    finally:
        cluster.end_move(key, to)
        cluster.move_slot(key, source)


async def test_a_script_waits_for_keys_that_are_on_their_way(
    cluster: Cluster, store: Store
) -> None:
    key, other = f"a{tag(1)}", f"b{tag(1)}"
    source = cluster.owner(key)
    to = next(member for member in cluster.members if member is not source)
    await store.run(BOTH, (key, other), ())
    cluster.begin_move(key, to)
    source.ask("MIGRATE", "127.0.0.1", to.port, key, 0, 5000)
    try:
        async with opened(cluster.url) as hasty:
            with pytest.raises(StoreUnavailable, match="being changed"):
                await hasty.run(BOTH, (key, other), ())
        waiting = store.run(BOTH, (key, other), ())
        await store.call("PING")
    finally:
        cluster.move_keys(key, to)
        cluster.end_move(key, to)
    assert await waiting == 4
    cluster.move_slot(key, source)


async def test_a_planned_fail_over_loses_nothing(own: Cluster) -> None:
    [master, *_] = own.members
    async with opened(own.url, timeout_seconds=5) as store:
        await outcomes(store)
        replica = await aside(own.add_replica, master)
        done = [1] * SHARDS
        failing_over = aside(own.fail_over, replica)
        while not failing_over.done():
            done = await outcomes(store)
        await failing_over
        assert await outcomes(store) == [count + 1 for count in done]
        assert replica in own.masters
    own.remove(master)


@pytest.mark.parametrize("formed", PROGRAMS, indirect=True)
async def test_a_replica_takes_over_while_the_others_serve(own: Cluster) -> None:
    victim = own.owner(KEYS[0])
    theirs, others = split(own, victim)
    async with opened(own.url) as store:
        replica = await aside(own.add_replica, victim)
        assert await outcomes(store) == [1] * SHARDS
        until(lambda: replica.ask("DBSIZE") == len(theirs))
        victim.kill()

        taking_over = aside(until, lambda: replica in own.masters)
        rounds = 0
        while not taking_over.done():
            rounds += 1
            assert not errors(await outcomes(store, others))
            assert len(errors(await outcomes(store, theirs))) in (0, len(theirs))
        async with within(2):
            await served(store, theirs)

        assert rounds > 3
        assert not errors(await outcomes(store))
    own.remove(victim)


async def test_a_master_that_is_gone_stops_nobody_else(harmed: Cluster) -> None:
    async with opened(harmed.url) as store:
        info = await store.call("INFO", "server")  # of the one that is asked what has no key
        victim = next(one for one in harmed.members if b"tcp_port:%d" % one.port in info)
        theirs, others = split(harmed, victim)
        changes: list[bool] = []
        store.on_change = changes.append
        await outcomes(store)
        victim.kill()

        async with Stopwatch() as watch:
            for _ in range(5):
                assert len(errors(await outcomes(store, theirs))) == len(theirs)
        for _ in range(20):
            assert not errors(await outcomes(store, others))

        assert watch.seconds < TIMEOUT_SECONDS
        assert (store.is_available, changes) == (True, [])
        assert await store.ping() == 1
        assert await store.call("TIME")
        with pytest.raises(StoreUnavailable):
            await store.each("DBSIZE")

        await aside(victim.start)
        await served(store, theirs)


async def test_a_master_that_hangs_costs_its_own_keys_one_timeout(harmed: Cluster) -> None:
    victim = harmed.owner(KEYS[0])
    theirs, others = split(harmed, victim)
    async with opened(harmed.url) as store:
        await outcomes(store)
        os.kill(victim.process.pid, signal.SIGSTOP)

        hanging = asyncio.ensure_future(outcomes(store, theirs))
        async with Stopwatch() as meanwhile:
            assert not errors(await outcomes(store, others))
        async with Stopwatch() as watch:
            assert len(errors(await hanging)) == len(theirs)
        later = [store.call("GET", key) for key in theirs]

        assert meanwhile.seconds < TIMEOUT_SECONDS
        assert watch.seconds < 2 * TIMEOUT_SECONDS
        assert all(call.done() and call.exception() for call in later)
        os.kill(victim.process.pid, signal.SIGCONT)
        await served(store, theirs)


async def test_a_cluster_without_any_server_is_unavailable_until_one_is_back(
    harmed: Cluster,
) -> None:
    async with opened(harmed.url) as store:
        changed = asyncio.Queue[bool]()
        store.on_change = changed.put_nowait
        await outcomes(store)
        for member in harmed.members:
            member.kill()
        while store.is_available:
            assert len(errors(await outcomes(store))) == SHARDS
        assert not await changed.get()
        with pytest.raises(StoreUnavailable):
            await store.ping()

        for member in harmed.members:
            await aside(member.start)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await changed.get()
        await served(store, KEYS)


async def test_a_new_master_is_asked_for_what_it_was_given(own: Cluster) -> None:
    key = KEYS[0]
    async with opened(own.url) as store:
        await store.call("SET", key, "value")
        source = own.owner(key)
        fourth = await aside(own.add_master)
        await aside(own.move_slot, key, fourth)
        assert await store.call("GET", key) == b"value"
        assert (await store.address_of(key)).port == fourth.port
        assert len(await store.each("PING")) == 4

        await aside(own.move_slot, key, source)
        assert await store.call("GET", key) == b"value"
        # What has no slot any more is left alone.
        await aside(until, lambda: "name=dragoman" not in str(fourth.ask("CLIENT", "LIST")))
    own.remove(fourth)


async def test_what_cannot_be_sent_is_told_before_there_is_a_map(cluster: Cluster) -> None:
    async with opened(cluster.url) as store:
        with pytest.raises(TypeError):
            store.call("SET", "key", None)  # type: ignore[arg-type]
        assert await store.call("PING") == b"PONG"


async def test_loss_and_return_of_all_seeds_are_two_lines_in_the_log(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = gateway.cluster.first_map
    monkeypatch.setattr("gateway.cluster.first_map", lose)
    async with opened(cluster.url) as store:
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.call("GET", "key")
        monkeypatch.setattr("gateway.cluster.first_map", told)
        await served(store, KEYS)
    lost, found = caplog.messages
    assert "not asked for now" in lost
    assert "answers again" in found


async def lose(*_: object) -> list[Range]:
    raise StoreUnavailable("nobody answers")


async def test_refusal_is_no_outage(store: Store) -> None:
    for _ in range(5):
        with pytest.raises(StoreRefused):
            await store.call("LPUSH", "count", 1, await store.call("SET", "count", 1))
    with pytest.raises(StoreRefused, match="CROSSSLOT"):
        await store.run(BOTH, KEYS[:2], ())
    assert store.is_available


async def test_latency_is_told_of_each_write(cluster: Cluster) -> None:
    told: list[float] = []
    store = Store(cluster.url, on_latency=told.append)
    await asyncio.gather(*(store.call("GET", KEYS[0]) for _ in range(10)))
    assert len(told) == 1
    assert 0 < told[0] < PATIENCE_SECONDS
    await store.aclose()


@pytest.mark.parametrize("calls", [0, 1, 100])
@in_own_loop
async def test_close_leaves_neither_task_nor_call(cluster: Cluster, calls: int) -> None:
    before = asyncio.all_tasks()
    store = Store(cluster.url)
    waiting = [store.call("GET", KEYS[number % SHARDS]) for number in range(calls)]

    await store.aclose()

    assert asyncio.all_tasks() == before
    assert all(isinstance(call.exception(), StoreUnavailable) for call in waiting)
    assert isinstance(store.call("GET", "key").exception(), StoreUnavailable)
    assert asyncio.all_tasks() == before


@in_own_loop
async def test_close_ends_the_wait_for_a_map() -> None:
    store = Store("redis+cluster://127.0.0.1:1")
    waiting = asyncio.create_task(store.each("PING"))
    await asyncio.sleep(0)
    await store.aclose()

    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(StoreUnavailable, match="closed"):
            await waiting


async def served(store: Store, keys: tuple[str, ...]) -> None:
    """Return once calls for all of these keys are answered."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while errors(await outcomes(store, keys)):  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)


def split(cluster: Cluster, member: Member) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the keys of a member, and those of all others."""
    theirs = tuple(key for key in KEYS if cluster.owner(key) is member)
    return theirs, tuple(key for key in KEYS if key not in theirs)


def errors(answers: list[Any]) -> list[BaseException]:
    found = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(error, StoreUnavailable) for error in found)
    return found
