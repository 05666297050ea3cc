"""Stores are warned of whose eviction policy does not suit what they hold."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from gateway.config import ConfigError, Store
from gateway.store import Store as Client
from gateway.store_check import check_spelling, examine
from tests.cluster import Cluster
from tests.gateway.state_server import RealServer
from tests.patience import Stopwatch

pytestmark = pytest.mark.anyio


async def set_policy(server: RealServer, policy: str) -> None:
    async with aclosing(Client(server.url, timeout_seconds=60)) as client:
        await client.call("CONFIG", "SET", "maxmemory-policy", policy)


@pytest.mark.parametrize(
    ("policy", "as_state", "as_cache"),
    [
        ("noeviction", True, False),
        ("allkeys-lfu", False, True),
        ("allkeys-lru", False, True),
        ("volatile-lru", False, True),
    ],
)
async def test_the_state_must_be_kept_and_the_cache_must_not(
    server: RealServer, policy: str, as_state: bool, as_cache: bool
) -> None:
    await set_policy(server, policy)
    [(_, state_is_well, detail)] = await examine(Store(state=server.url))
    [(_, cache_is_well, _)] = await examine(Store(cache=server.url))
    assert (state_is_well, cache_is_well) == (as_state, as_cache)
    assert policy in detail


async def test_one_server_for_both_is_refused(server: RealServer) -> None:
    found = await examine(Store(state=server.url, cache=f"{server.url}?db=1"))
    assert [is_well for _, is_well, _ in found] == [True, False, False]
    assert "is the state store too" in found[-1][2]


async def test_a_server_that_does_not_answer_is_named(server: RealServer) -> None:
    server.kill()
    [(store, is_well, detail)] = await examine(Store(state=server.url))
    assert (store, is_well) == ("state store", False)
    assert "does not answer" in detail
    server.start()


async def test_a_server_that_does_not_tell_is_believed(server: RealServer) -> None:
    async with aclosing(Client(server.url, timeout_seconds=60)) as client:
        await client.call("ACL", "SETUSER", "default", "-config")
    [(_, is_well, detail)] = await examine(Store(state=server.url))
    assert is_well
    assert "should be noeviction" in detail


async def test_embedded_stores_need_no_look() -> None:
    assert await examine(Store()) == []


async def test_a_cluster_is_well_if_all_of_its_masters_are(cluster: Cluster) -> None:
    [(_, state_is_well, as_state)] = await examine(Store(state=cluster.url))
    [(_, cache_is_well, as_cache)] = await examine(Store(cache=cluster.url))
    assert (state_is_well, cache_is_well) == (True, False)
    assert "3 masters, noeviction" in as_state
    assert "noeviction" in as_cache


async def test_one_master_that_evicts_is_enough_for_a_warning(cluster: Cluster) -> None:
    cluster.members[1].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        [(_, is_well, detail)] = await examine(Store(state=cluster.url))
    finally:
        cluster.members[1].ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert not is_well
    assert "allkeys-lru on 1" in detail


async def test_what_a_restart_or_a_lost_master_would_cost_is_told(cluster: Cluster) -> None:
    cluster.members[2].ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    try:
        [(_, is_well, detail)] = await examine(Store(state=cluster.url))
    finally:
        cluster.members[2].ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    assert is_well
    assert "without appendonly" in detail
    assert "one lost master stops all" in detail


async def test_a_node_of_a_cluster_is_no_store_of_its_own(cluster: Cluster) -> None:
    [(_, is_well, detail)] = await examine(Store(state=cluster.urls[0]))
    assert not is_well
    assert "begin its URL with 'redis+cluster://'" in detail


async def test_a_start_is_refused_with_a_node_of_a_cluster(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=r"^store\.cache: is a node .* 'redis\+cluster://'$"):
        await check_spelling(Store(state=cluster.url, cache=cluster.urls[1]))


async def test_a_start_waits_for_no_store(server: RealServer) -> None:
    await check_spelling(Store())
    await check_spelling(Store(state=server.url))
    server.hang()
    async with Stopwatch() as watch:
        await check_spelling(Store(state=server.url, cache=server.url))
    server.go_on()
    assert watch.seconds < 2
    server.kill()
    await check_spelling(Store(state=server.url))
    server.start()


async def test_a_cluster_must_not_be_both_stores(cluster: Cluster) -> None:
    found = await examine(Store(state=cluster.url, cache=f"{cluster.url}/?db=0"))
    assert "is the state store too" in found[-1][2]
