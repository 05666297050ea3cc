"""Every kind of limit at once, from several processes of which some are killed."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from gateway import embedded
from gateway.accounts import DAY_FIELDS, MONTH_FIELD, Caps, shard_keys, use_key
from gateway.ledger import Record
from gateway.limits import Limits
from gateway.quotas import RECLAIM
from gateway.store import Script, Store
from tests.gateway import quota_load
from tests.gateway.quota_load import KEY_LIMITS, KEYS, TEAM_LIMITS, amounts_of

pytestmark = pytest.mark.anyio

PROCESSES, SECONDS = 4, 3.0
COUNTED = (*DAY_FIELDS, MONTH_FIELD)
NAMES = (
    *("requests", "tokens", "images", "characters", "audio ms", "nano-USD"),
    *("token burst", "request burst", "leases"),
)
LOOK = Script(
    """
    local found, clock = {}, redis.call('TIME')
    local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
    for i, key in ipairs(KEYS) do
      found[i] = i % 2 == 1
        and redis.call('HMGET', key, 'd1', 'd2', 'd3', 'd4', 'd5', 'm1', 'tl', 'rl')
        or redis.call('ZCOUNT', key, string.format('(%.0f', now), '+inf')
    end
    return found
    """
)


@pytest.fixture(params=["embedded", "cluster"])
async def store(request: pytest.FixtureRequest, tmp_path: Path):
    """Yield a state store whose one shard that is used is ready, and its URL."""
    async with AsyncExitStack() as closing:
        if request.param == "cluster":
            url = request.getfixturevalue("cluster").url
        else:
            pair = await embedded.start(tmp_path)
            closing.push_async_callback(pair.stop)
            url = pair.state_url
        store = Store(url, timeout_seconds=5)
        closing.push_async_callback(store.aclose)
        await store.each("FLUSHALL")
        await store.call("SET", shard_keys(quota_load.accounts()[0].shard)[0], "1")
        yield store, url


async def start(url: str, seconds: float, seed: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.gateway.quota_load", url, str(seconds), str(seed)),
        stdout=asyncio.subprocess.PIPE,
    )


def caps_of(limits: Limits) -> list[int]:
    caps = Caps.of(limits)
    return [caps.requests, caps.tokens, caps.images, caps.characters, caps.audio_ms, caps.nano_usd]


async def sample(store: Store, peaks: dict[str, list[float]]) -> None:
    """Note the most that each scope ever had used and reserved, all read at one instant."""
    keys = [
        key
        for account in quota_load.accounts()
        for key in account.keys[len(shard_keys(account.shard)) :]
    ]
    scopes = [scope for account in quota_load.accounts() for scope in account.scopes]
    while True:
        found = await store.run(LOOK, keys, ())
        for scope, fields, leases in zip(scopes, found[::2], found[1::2], strict=True):
            now = [float(value or 0) for value in fields] + [leases]
            peaks[scope] = [max(*pair) for pair in zip(peaks.get(scope, now), now, strict=True)]


async def ledger_sums(store: Store) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """Return Σ ledger by scope and counter, and how many records there are of each status."""
    sums: Counter[tuple[str, str]] = Counter()
    statuses: Counter[str] = Counter()
    seen: set[str] = set()
    stream = shard_keys(quota_load.accounts()[0].shard)[3]
    for _, fields in await store.call("XRANGE", stream, "-", "+"):
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        record = msgspec.json.decode(values[b"r"], type=Record)
        assert record.request_id not in seen, "recorded twice"
        seen.add(record.request_id)
        statuses[record.status] += 1
        for scope in (f"key:{record.key_id}", f"team:{record.team}"):
            for name, amount in zip(COUNTED, (1, *amounts_of(record)), strict=True):
                sums[scope, name] += amount
    return sums, statuses


async def test_no_limit_is_passed_at_any_instant_and_counters_equal_the_ledger(store) -> None:
    state, url = store
    peaks: dict[str, list[float]] = {}
    sampling = asyncio.create_task(sample(state, peaks))
    processes = [await start(url, SECONDS, seed) for seed in range(PROCESSES)]
    victims = [await start(url, 60, 100 + number) for number in range(2)]
    for victim in victims:
        assert victim.stdout
        assert await victim.stdout.readline()  # it holds a lease
        victim.kill()
    outputs = [(await process.communicate())[0].split()[-1] for process in processes]
    await asyncio.gather(*(victim.wait() for victim in victims))
    shard = shard_keys(quota_load.accounts()[0].shard)
    while await state.call("HLEN", shard[1]):
        await state.run(RECLAIM, shard, ())
        await asyncio.sleep(0.05)  # no event tells that a lease has run out
    sampling.cancel()

    sums, statuses = await ledger_sums(state)
    assert statuses["abandoned"] > 0, "nobody died in the middle of a request"
    assert statuses["ok"] >= sum(map(int, outputs)) > 100
    scopes = [*((f"key:{key}", KEY_LIMITS) for key in KEYS), ("team:race", TEAM_LIMITS)]
    for scope, limits in scopes:
        use = use_key(quota_load.accounts()[0].shard, scope)
        counters = [int(value or 0) for value in await state.call("HMGET", use, *COUNTED)]
        assert counters == [sums[scope, name] for name in COUNTED], scope
        bounds = [*caps_of(limits), limits.tpm_burst, limits.rpm_burst, limits.concurrency]
        for peak, bound, name in zip(peaks[scope], bounds, NAMES, strict=True):
            assert peak <= bound + 1e-5, (scope, name)
        told = zip(NAMES, peaks[scope], bounds, strict=True)
        print(f"\n{scope}:", *(f"{name} {peak:.0f}/{bound}," for name, peak, bound in told))
    print(dict(statuses))
