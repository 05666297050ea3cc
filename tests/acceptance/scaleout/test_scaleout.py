"""Three gateways on shared stores are as one, whatever of them is replaced or lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from gateway.accounts import SHARDS
from gateway.counters import missing
from gateway.ledger_stream import stream_key
from tests.acceptance.caching.served import hear_each_other, store_at
from tests.acceptance.scaleout.caller import Caller, Load, load
from tests.acceptance.scaleout.fleet import (
    ADMIN_KEY,
    GATEWAYS,
    PEPPER,
    Customer,
    Fleet,
    Gateway,
    client,
    running_fleet,
    stopped,
    until,
)
from tests.acceptance.scaleout.model import PACE_SECONDS, chat, is_whole
from tests.acceptance.scaleout.stores import SharedStores, shared_stores
from tests.cluster import Cluster
from tests.gateway.running import Answer
from tests.patience import Stopwatch
from tests.served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NOTICE_SECONDS = 1
STREAM_TOKENS = round(2 / PACE_SECONDS)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStores]:
    with shared_stores(tmp_path_factory.mktemp("stores")) as made:
        yield made


@pytest.fixture(scope="module")
async def fleet(
    anyio_backend: str, stores: SharedStores, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    """Gateways that one test after the other has; each has keys of its own."""
    async with running_fleet(tmp_path_factory.mktemp("fleet"), stores) as running:
        yield running


def bodies(name: str) -> Iterator[dict[str, Any]]:
    """Yield requests, all different: two that are answered at once, then a stream of 2 s."""
    for number in itertools.count():
        stream = number % 3 == 2
        tokens = STREAM_TOKENS if stream else 4
        yield chat(f"{name} {number}", tokens=tokens, stream=stream)


async def ask_at_once(callers: Sequence[Caller], *asked: dict[str, Any]) -> list[Answer]:
    """Return the answer to one request of each caller, who have the bodies in turn."""
    try:
        asking = (
            caller.ask(body) for caller, body in zip(callers, itertools.cycle(asked), strict=False)
        )
        return await asyncio.gather(*asking)
    finally:
        for caller in callers:
            await caller.aclose()


def check_all_whole(done: Load) -> set[str]:
    """Return the ids of all answers, each of which came whole."""
    assert Counter(answer.status for _, answer in done.answers).keys() == {200}
    assert all(is_whole(answer, body["max_tokens"]) for body, answer in done.answers)
    return {answer.headers["x-request-id"] for _, answer in done.answers}


async def check_recorded(fleet: Fleet, customer: Customer, ids: set[str]) -> None:
    """Check that the ledger has these requests of a key, each once as answered, and no other."""
    assert await fleet.differences() == []
    assert await fleet.records(customer, len(ids)) == dict.fromkeys(ids, "ok")


async def test_a_budget_is_spent_once_by_all_gateways_together(fleet: Fleet) -> None:
    customer = await fleet.customer(requests_per_day=60)
    answers = await ask_at_once(fleet.callers(customer.key, 100), chat("budget"))
    assert Counter(answer.status for answer in answers) == {200: 60, 429: 40}
    assert fleet.model.calls["budget"] == 60
    told = [answer.json() for answer in await fleet.get("/v1/usage", customer.key)]
    assert [one["used"]["key"]["requests_today"] for one in told] == [60] * GATEWAYS
    assert [one["limits"][0]["remaining"] for one in told] == [0] * GATEWAYS
    ids = {one.headers["x-request-id"] for one in answers if one.status == 200}
    await check_recorded(fleet, customer, ids)


async def test_no_more_requests_are_under_way_than_a_key_may_have(fleet: Fleet) -> None:
    customer = await fleet.customer(concurrency=5)
    callers = fleet.callers(customer.key, 100)
    fleet.upstream.most_at_once = 0
    fleet.model.may_answer.clear()
    asking = [asyncio.create_task(caller.ask(chat("together"))) for caller in callers]
    try:
        # Each of them is refused, or under way.
        await wait_until(
            lambda: sum(one.done() for one in asking) + fleet.upstream.under_way == 100
        )
    finally:
        fleet.model.may_answer.set()
    answers = await asyncio.gather(*asking)
    for caller in callers:
        await caller.aclose()
    assert Counter(answer.status for answer in answers) == {200: 5, 429: 95}
    assert fleet.upstream.most_at_once == 5
    answers += await ask_at_once(fleet.callers(customer.key, 3), chat("again"))
    assert Counter(answer.status for answer in answers) == {200: 8, 429: 95}
    ids = {one.headers["x-request-id"] for one in answers if one.status == 200}
    await check_recorded(fleet, customer, ids)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_question_at_all_gateways_is_asked_once(fleet: Fleet, stream: bool) -> None:
    customer = await fleet.customer()
    async with store_at(fleet.stores.cache_url) as cache:
        await hear_each_other(cache, GATEWAYS)
    body = chat(f"same {stream}", stream=stream, seed=7)
    fleet.model.may_answer.clear()
    try:
        asking = asyncio.create_task(ask_at_once(fleet.callers(customer.key, 60), body))
        await until(partial(fleet.under_way, customer), lambda leases: len(leases) == 60)
    finally:
        fleet.model.may_answer.set()
    answers = await asking
    assert all(answer.status == 200 and is_whole(answer, 4) for answer in answers)
    found = Counter(answer.headers["x-dragoman-cache"] for answer in answers)
    assert found["miss"] == 1
    assert found["shared"] + found["hit"] == 59
    assert fleet.model.calls[f"same {stream}"] == 1
    await check_recorded(fleet, customer, {one.headers["x-request-id"] for one in answers})


async def make_and_revoke(fleet: Fleet, *, at: Gateway, by: Gateway) -> float:
    """Make a key at one gateway, revoke it by another; return the seconds until all refuse it."""

    async def statuses() -> set[int]:
        return {answer.status_code for answer in await fleet.get("/v1/models", made["key"])}

    async with client(ADMIN_KEY) as admin:
        made = (await admin.post(f"{at.url}/admin/keys", json={"name": "new"})).json()
        assert await statuses() == {200}
        async with Stopwatch() as watch:
            answer = await admin.post(f"{by.url}/admin/keys/{made['id']}/revoke")
            assert answer.status_code == 200
            await until(statuses, lambda found: found == {401})
    return watch.seconds


async def test_a_key_made_at_one_gateway_is_good_at_all_until_one_revokes_it(fleet: Fleet) -> None:
    first, second, third = fleet.gateways
    pairs = ((first, second), (second, third), (third, first))
    seconds = [await make_and_revoke(fleet, at=at, by=by) for at, by in pairs]
    print(f"\nrevoked everywhere after {min(seconds):.2f} to {max(seconds):.2f} s")
    assert min(seconds) < NOTICE_SECONDS  # a machine that is busy with others may be late


async def kill_with(streams: int, fleet: Fleet, victim: Gateway, customer: Customer) -> list[str]:
    """Kill a gateway that so many streams are under way at; return their ids."""
    fleet.model.may_answer.clear()
    callers = [Caller([victim.port], customer.key) for _ in range(streams)]
    asking = [asyncio.create_task(one.ask(chat("lost", stream=True))) for one in callers]
    try:
        ids = await until(partial(fleet.under_way, customer), lambda ids: len(ids) == streams)
        await victim.kill()
    finally:
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
        fleet.model.may_answer.set()
    return ids


async def test_another_writer_takes_the_place_of_one_that_is_killed(fleet: Fleet) -> None:
    customer = await fleet.customer()
    victim, *others = fleet.gateways
    await fleet.let_lead(victim)
    leader = await fleet.leader()
    callers = fleet.callers(customer.key, 30)
    answered = await ask_at_once(callers, *itertools.islice(bodies("before"), 30))
    dead = await kill_with(5, fleet, victim, customer)
    try:
        async with Stopwatch() as watch:
            await until(fleet.leader, lambda token: token not in (None, leader))
        print(f"\nanother leads after {watch.seconds:.1f} s")
        await fleet.expire(customer)
        callers = [Caller([gateway.port], customer.key) for gateway in others]
        answered += await ask_at_once(callers, *itertools.islice(bodies("after"), 2))
        ids = {answer.headers["x-request-id"] for answer in answered}
        records = await fleet.records(customer, len(ids) + len(dead))
        assert records == dict.fromkeys(ids, "ok") | dict.fromkeys(dead, "abandoned")
        assert await fleet.differences() == []
    finally:
        await victim.start()


async def test_gateways_are_replaced_one_after_the_other_and_nobody_notices(fleet: Fleet) -> None:
    customer = await fleet.customer(requests_per_day=100_000)
    callers = fleet.callers(customer.key, 30)
    async with load(callers, bodies("rolling")) as done:
        await done.more(30)
        for gateway in fleet.gateways:
            assert await gateway.stop() == 0
            await gateway.start()
            await done.more(30)
    turned_away = sum(caller.turned_away for caller in callers)
    print(f"\n{len(done.answers)} answers, {turned_away} by another gateway than the first asked")
    await check_recorded(fleet, customer, check_all_whole(done))


async def test_all_gateways_are_reloaded_at_once_and_nobody_notices(fleet: Fleet) -> None:
    customer = await fleet.customer(requests_per_day=100_000)
    callers = fleet.callers(customer.key, 50)
    streams = (
        chat(f"reload {number}", tokens=STREAM_TOKENS, stream=True) for number in itertools.count()
    )
    async with load(callers, streams) as done:
        await until(partial(fleet.under_way, customer), lambda leases: len(leases) == 50)
        await asyncio.gather(*(gateway.reload() for gateway in fleet.gateways))
        await done.more(50)
    assert sum(caller.turned_away for caller in callers) == 0
    await check_recorded(fleet, customer, check_all_whole(done))


async def test_a_lost_master_of_the_state_store_costs_no_request(fleet: Fleet) -> None:
    cluster = fleet.stores.cluster
    victim = cluster.masters[0]
    replica = await asyncio.to_thread(cluster.add_replica, victim)
    customers = [
        await fleet.customer(shards=shards, requests_per_day=100_000)
        for shards in shards_by_master(cluster)
    ]
    async with AsyncExitStack() as closing:
        loads = []
        for customer in customers:
            callers = fleet.callers(customer.key, 6)
            loads.append(await closing.enter_async_context(load(callers, bodies(customer.id))))
        await asyncio.gather(*(done.more(6) for done in loads))
        with stopped(replica.process.pid):  # so that it does not take the place too early
            victim.kill()
            callers = fleet.callers(customers[0].key, GATEWAYS)
            without = await ask_at_once(callers, *itertools.islice(bodies("without"), 2))
        async with Stopwatch() as watch:
            await asyncio.to_thread(cluster.wait_until_well)
        await asyncio.gather(*(done.more(6) for done in loads))
    print(f"\nits replica has its place after {watch.seconds:.1f} s")
    assert [(one.status, "x-dragoman-degraded" in one.headers) for one in without] == [
        (200, True)
    ] * GATEWAYS
    await until(partial(missing, fleet.state), lambda shards: not shards)
    ids = [check_all_whole(done) for done in loads]
    ids[0] |= {one.headers["x-request-id"] for one in without}
    pairs = zip(customers, ids, strict=True)
    await asyncio.gather(*(check_recorded(fleet, customer, those) for customer, those in pairs))


async def test_the_command_proves_that_ledger_and_counters_agree(fleet: Fleet) -> None:
    customer = await fleet.customer()
    await ask_at_once(fleet.callers(customer.key, 3), chat("proof"))
    gateway = fleet.gateways[0]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from gateway.cli import main; main()", "usage", "--reconcile"),
        *("--config", gateway.config, "--data-dir", gateway.data_dir),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DRAGOMAN_PEPPER": PEPPER},
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


def shards_by_master(cluster: Cluster) -> list[list[int]]:
    """Return the shards that each master has."""
    found: dict[int, list[int]] = {master.port: [] for master in cluster.masters}
    for shard in range(SHARDS):
        found[cluster.owner(stream_key(shard)).port].append(shard)
    return list(found.values())
