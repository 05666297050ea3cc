"""What an answer costs that no upstream was asked for, and who pays for one that is shared."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any

import httpx
import pytest

from gateway.amounts import Usage
from gateway.cache import records
from gateway.cache.keys import parse_storage_key, pattern, scope_of
from gateway.store import Store
from tests.acceptance.caching.answers import (
    CHAT,
    IMAGES,
    REPEATABLE,
    STREAM,
    amounts,
    status_of,
    visits_of,
    with_headers,
)
from tests.acceptance.caching.conftest import StartGateway
from tests.acceptance.metering.customer import Customer
from tests.acceptance.metering.exchange_kinds import KINDS, Json, Kind, price_of
from tests.acceptance.metering.pace import Reading, asking
from tests.gateway.image_route.painting import painting
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

CHARGES = {
    "none": ({}, Fraction(0)),
    "full": ({"charge": "full", "unseeded": True}, Fraction(1)),
    "quarter": ({"charge": 0.25}, Fraction(1, 4)),
}
BY_CHARGE = pytest.mark.parametrize(("cache", "share"), CHARGES.values(), ids=CHARGES)
BOTH_FORMS = pytest.mark.parametrize("kind", [CHAT, STREAM], ids=["whole", "stream"])
NOTHING = Usage()


def share_of(used: Usage, share: Fraction) -> Usage:
    """Return what is paid of `used`: each amount by itself, rounded up."""
    return Usage(
        input_tokens=math.ceil(used.input_tokens * share),
        output_tokens=math.ceil(used.output_tokens * share),
        images=math.ceil(used.images * share),
        characters=math.ceil(used.characters * share),
        audio_ms=math.ceil(used.audio_ms * share),
    )


def paid_by(record: Any) -> Usage:
    """Return what a record charges; an estimate of nothing is nothing."""
    paid = amounts(record)
    paid.estimated = False
    assert record["nano_usd"] == price_of(paid)
    return paid


async def assert_counted(customer: Customer, *, requests: int, paid: Usage) -> None:
    """Check that the counters of the key say the same as its records."""
    key, *_ = await customer.used()
    assert (key.requests, key.tokens, key.images) == (
        requests,
        paid.input_tokens + paid.output_tokens,
        paid.images,
    )
    assert key.nano_usd == price_of(paid)
    assert await customer.written() == requests


@BY_CHARGE
@pytest.mark.parametrize("name", KINDS)
async def test_a_hit_is_one_record_of_its_share(
    gateway_with: StartGateway,
    upstream: Upstream,
    name: str,
    cache: Json,
    share: Fraction,
) -> None:
    kind = REPEATABLE[name]
    customer = await Customer.of(await gateway_with(**cache))
    upstream.play(*visits_of(kind))
    async with customer.client() as client:
        assert status_of(await kind.ask(client)) == "miss"
        assert status_of(await kind.ask(client)) == "hit"
    miss, hit = await customer.records()
    used = kind.used[-1]
    assert (miss["cached"], hit["cached"]) == (False, True)
    assert (hit["status"], hit["finish"]) == ("ok", miss["finish"])
    assert paid_by(miss) == used
    assert paid_by(hit) == share_of(used, share)
    assert hit["model"] == miss["model"]
    assert hit["upstream_ms"] <= miss["upstream_ms"]


@BY_CHARGE
async def test_counters_say_what_the_ledger_says(
    gateway_with: StartGateway, upstream: Upstream, cache: Json, share: Fraction
) -> None:
    customer = await Customer.of(await gateway_with(**cache), **FAR_LIMITS)
    upstream.play(*visits_of(STREAM))
    async with customer.client() as client:
        for _ in range(3):
            assert (await STREAM.ask(client)).status_code == 200
    paid = [paid_by(record) for record in await customer.records()]
    assert paid == [STREAM.used[-1], *[share_of(STREAM.used[-1], share)] * 2]
    await assert_counted(customer, requests=3, paid=total(paid))
    assert await customer.metered.differences() == []


FAR_LIMITS: Json = {"concurrency": 100, "tokens_per_day": 10**9}


def total(paid: list[Usage]) -> Usage:
    names = ("input_tokens", "output_tokens", "images", "characters", "audio_ms")
    return Usage(**{name: sum(getattr(one, name) for one in paid) for name in names})


@BOTH_FORMS
async def test_requests_per_minute_are_hits_too(
    gateway_with: StartGateway, upstream: Upstream, kind: Kind
) -> None:
    # A rate that refills slowly, so that a slow machine makes no difference.
    customer = await Customer.of(await gateway_with(), rpm=2, rpm_burst=2)
    upstream.play(*visits_of(kind))
    async with customer.client() as client:
        answers = [await kind.ask(client) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [status_of(answer) for answer in answers[:2]] == ["miss", "hit"]
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert len(await customer.records()) == 2


@BY_CHARGE
async def test_who_has_spent_all_is_served_what_costs_nothing(
    gateway_with: StartGateway, upstream: Upstream, cache: Json, share: Fraction
) -> None:
    kind = CHAT.having(max_tokens=4)  # reserves twenty tokens, and uses ten
    customer = await Customer.of(await gateway_with(**cache), tokens_per_day=20)
    upstream.play(*visits_of(kind))
    async with customer.client() as client:
        assert status_of(await kind.ask(client)) == "miss"
        another = await kind.having(seed=8).ask(client)
        hits = [await kind.ask(client) for _ in range(3)]
    assert (another.status_code, another.json()["error"]["code"]) == (429, "insufficient_quota")
    # Of the ten that are left, a quarter reserves five and uses three.
    served = {Fraction(0): 3, Fraction(1, 4): 2, Fraction(1): 0}[share]
    assert [hit.status_code for hit in hits] == [200] * served + [429] * (3 - served)


@BY_CHARGE
async def test_of_four_images_two_of_which_are_kept_two_are_paid_for(
    gateway_with: StartGateway, upstream: Upstream, cache: Json, share: Fraction
) -> None:
    customer = await Customer.of(await gateway_with(**cache), images_per_day=100)
    upstream.play(painting())
    async with customer.client() as client:
        for count in (2, 4, 4):
            assert (await IMAGES.having(n=count).ask(client)).status_code == 200
    told = await customer.records()
    paid = [paid_by(record).images for record in told]
    assert paid == [2, math.ceil(2 + 2 * share), math.ceil(4 * share)]
    assert [record["cached"] for record in told] == [False, False, True]
    await assert_counted(customer, requests=3, paid=Usage(images=sum(paid)))


@BY_CHARGE
async def test_who_leaves_a_replay_pays_its_share_of_what_was_played(
    gateway_with: StartGateway, upstream: Upstream, cache: Json, share: Fraction
) -> None:
    metered = await gateway_with(**cache)
    customer = await Customer.of(metered, **FAR_LIMITS)
    upstream.play(_hold)
    async with customer.client() as client:
        async with asking(client, STREAM) as making:
            visit = await upstream.arrival()
            for step, (_, data) in enumerate(STREAM.steps, 1):
                await visit.send(data)
                await making.shows(min(step, 4))  # the fifth brings the usage
            await making.ends()
        await stretch(customer)
        async with asking(client, with_headers(STREAM, x_replay="paced")) as reading:
            await reading.shows(1)
    first, left = await customer.records()
    assert reading.headers["x-dragoman-cache"] == "hit"
    assert (left["status"], left["finish"]) == ("disconnected", "client_disconnected")
    assert left["cached"]
    assert paid_by(left) == share_of(STREAM.used[1], share)
    await assert_counted(customer, requests=2, paid=total([paid_by(first), paid_by(left)]))


async def stretch(customer: Customer) -> None:
    """Let what is kept for a key end an hour after it began, for those who want its pace."""
    cache = Store(customer.metered.stores.cache_url, timeout_seconds=10)
    scope = scope_of("key", customer.key_id, customer.team)
    [key] = await cache.call("KEYS", pattern("openai/text", scope))
    [digest, _] = parse_storage_key(key.decode()) or ("", "")
    record = records.decode(await cache.call("GET", key), digest=digest)
    for piece in record.pieces[1:]:
        piece.ms = 3_600_000
    payload = records.pack(record.pieces, made_at_ms=record.made_at_ms, record_id=record.record_id)
    await cache.call("SET", key, records.seal(payload, digest=digest))
    await cache.aclose()


class Shared:
    """Two clients of one answer. The first asks the upstream and is the one who is to pay."""

    def __init__(self, customer: Customer, upstream: Upstream, kind: Kind) -> None:
        self.customer = customer
        self.kind = kind
        self._upstream = upstream
        upstream.play(_hold)

    @asynccontextmanager
    async def asked(self, client: httpx.AsyncClient) -> AsyncIterator[tuple[Reading, Reading]]:
        """Yield both, once the gateway has them in one flight."""
        async with asking(client, self.kind) as leader:
            self.visit = await self._upstream.arrival()
            async with asking(client, self.kind) as follower:
                await self.under_way(2)
                yield leader, follower

    async def under_way(self, count: int) -> None:
        """Wait until so many requests are admitted and not settled."""
        metered = self.customer.metered
        await metered.until(self.customer.leases, lambda held: held == count)

    async def leave(self, reading: Reading) -> None:
        """Let a client leave, and wait until that is settled."""
        before = await self.customer.leases()
        reading.whole.cancel()
        await asyncio.wait([reading.whole])
        await self.under_way(before - 1)

    async def say(self, first: int, last: int) -> None:
        """Send some of the steps of the upstream's answer."""
        for _, data in self.kind.steps[first:last]:
            await self.visit.send(data)

    async def gone(self) -> None:
        """Wait until the upstream has been hung up on."""
        await self.visit.gone(within_seconds=PATIENCE_SECONDS)


async def _hold(visit: Visit) -> None:
    await visit.left.wait()


@pytest.fixture
async def limited(gateway_with: StartGateway) -> Customer:
    """One whose requests under way can be counted, as they hold leases."""
    return await Customer.of(await gateway_with(), **FAR_LIMITS)


@BOTH_FORMS
async def test_of_two_who_share_the_first_pays(
    limited: Customer, upstream: Upstream, kind: Kind
) -> None:
    shared = Shared(limited, upstream, kind)
    async with limited.client() as client, shared.asked(client) as (leader, follower):
        await shared.say(0, len(kind.steps))
        await leader.ends()
        await follower.ends()
    assert leader.headers["x-dragoman-cache"] == "miss"
    assert follower.headers["x-dragoman-cache"] == "shared"
    told = sorted(await limited.records(), key=lambda record: record["cached"])
    assert [record["cached"] for record in told] == [False, True]
    assert [record["status"] for record in told] == ["ok", "ok"]
    assert [paid_by(record) for record in told] == [kind.used[-1], NOTHING]
    await assert_counted(limited, requests=2, paid=kind.used[-1])
    assert len(upstream.visits) == 1


@pytest.mark.parametrize("pays", [True, False], ids=["payer", "follower"])
@pytest.mark.parametrize(
    ("kind", "steps"), [(CHAT, 0), (STREAM, 0), (STREAM, 2)], ids=["whole", "stream", "begun"]
)
async def test_who_stays_pays_all_and_who_leaves_nothing(
    limited: Customer, upstream: Upstream, kind: Kind, steps: int, pays: bool
) -> None:
    shared = Shared(limited, upstream, kind)
    async with limited.client() as client, shared.asked(client) as (leader, follower):
        await shared.say(0, steps)
        if steps:
            await leader.shows(steps)
            await follower.shows(steps)
        leaving, staying = (leader, follower) if pays else (follower, leader)
        await shared.leave(leaving)
        await shared.say(steps, len(kind.steps))
        await staying.ends()
    left, stayed = sorted(await limited.records(), key=lambda record: record["status"])
    assert (left["status"], stayed["status"]) == ("disconnected", "ok")
    assert (paid_by(left), paid_by(stayed)) == (NOTHING, kind.used[-1])
    assert not stayed["cached"]
    await assert_counted(limited, requests=2, paid=kind.used[-1])
    assert len(upstream.visits) == 1


@pytest.mark.parametrize("first", ["leader", "follower"])
@pytest.mark.parametrize(
    ("kind", "steps"), [(CHAT, 0), (STREAM, 0), (STREAM, 2)], ids=["whole", "stream", "begun"]
)
async def test_if_both_leave_the_last_pays_what_came(
    limited: Customer, upstream: Upstream, kind: Kind, steps: int, first: str
) -> None:
    shared = Shared(limited, upstream, kind)
    async with limited.client() as client, shared.asked(client) as both:
        await shared.say(0, steps)
        if steps:
            for reading in both:
                await reading.shows(steps)
        one, other = both if first == "leader" else both[::-1]
        await shared.leave(one)
        assert not shared.visit.left.is_set()
        await shared.leave(other)
        await shared.gone()
    told = await limited.records()
    assert [record["status"] for record in told] == ["disconnected"] * 2
    paid = total([paid_by(record) for record in told])
    paid.estimated = kind.used[steps].estimated
    assert paid == kind.used[steps]
    await assert_counted(limited, requests=2, paid=paid)
