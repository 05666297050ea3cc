"""The cache store hung, killed, slow, full or spoilt: clients get the right answer, and soon."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.store import Store
from tests.acceptance.caching.cache_site import (
    OUTAGES,
    Outage,
    Site,
    Spoil,
    flipped,
    foreign,
    full,
    moved,
    open_site,
    other_type,
    truncated,
)
from tests.acceptance.caching.model import Asked, Model, ask
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio
# What comes right after an answer. While it is still being kept, which takes a busy store longer
# than anybody waits for, it is handed on.
AT_ONCE = ("hit", "shared")

BUDGET_SECONDS = 0.05
SLACK_SECONDS = 0.03  # of timers and of the machine: less than the budget, which is not spent twice
ATTEMPTS = 3
MODEL = Model(pieces=8, size=64)


@asynccontextmanager
async def gateway(folder: Path, *, tell_seconds: float) -> AsyncIterator[Site]:
    """Run a gateway that tells the store so often what it counts, and soon asks it again.

    Counters and ledger must agree at its end.
    """
    defaults = Store.__init__.__kwdefaults__ or {}
    async with Upstream(MODEL) as upstream:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gateway.cache.counters._PAUSE_SECONDS", tell_seconds)
            patch.setattr(Store.__init__, "__kwdefaults__", {**defaults, "probe_seconds": 0.1})
            async with open_site(upstream, folder) as site:
                yield site
                assert await site.metered.differences() == []


@pytest.fixture(scope="module")
async def silent(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """A gateway whose requests are all that notices an outage."""
    async with gateway(tmp_path_factory.mktemp("silent"), tell_seconds=60) as site:
        yield site


@pytest.fixture(scope="module")
async def telling(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """A gateway that is quick to tell what it has counted."""
    async with gateway(tmp_path_factory.mktemp("telling"), tell_seconds=0.02) as site:
        yield site


@pytest.fixture
async def site(telling: Site) -> Site:
    """The gateway with a store that serves, and an upstream that answers at once."""
    return await at_rest(telling)


async def at_rest(site: Site) -> Site:
    """Return it once all is well."""
    site.upstream.rest()
    await served_again(site)
    site.upstream.rest()
    return site


async def served_again(site: Site) -> None:
    """Wait until an answer comes from the store."""
    prompt = new_prompt()

    async def look() -> Asked:
        return await right(site, prompt)

    await site.metered.until(look, lambda asked: asked.cache == "hit")


async def right(site: Site, prompt: str, *, stream: bool = False) -> Asked:
    """Return an answer, which has to be the right one."""
    asked = await ask(site.client, prompt, stream=stream)
    assert asked.is_answer(MODEL.text(prompt)), asked
    return asked


async def timed(site: Site, *, stream: bool = False) -> float:
    """Return how many seconds an answer takes that has to be made."""
    began = time.perf_counter()
    asked = await right(site, new_prompt(), stream=stream)
    assert asked.cache == "miss"
    return time.perf_counter() - began


def new_prompt() -> str:
    return secrets.token_hex(8)


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_costs_a_request_50_ms_at_most_and_soon_nothing(
    silent: Site, outage: Outage
) -> None:
    site, first, later = await at_rest(silent), [], []
    for attempt in range(ATTEMPTS):
        stream = attempt % 2 == 1
        usual = max([await timed(site, stream=stream) for _ in range(4)])
        async with outage(site):
            first.append(await timed(site, stream=stream) - usual)
            for _ in range(3):
                await timed(site, stream=stream)
            later.append(min([await timed(site, stream=stream) for _ in range(4)]) - usual)
        await served_again(site)
    assert min(first) < BUDGET_SECONDS + SLACK_SECONDS
    assert min(later) < SLACK_SECONDS


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_is_counted_and_after_it_answers_are_kept_again(
    site: Site, outage: Outage
) -> None:
    errors = await site.counted("errors")
    asked_before = len(site.upstream.visits)
    async with outage(site):
        for stream in (False, True, False):
            await right(site, prompt := new_prompt(), stream=stream)
    assert len(site.upstream.visits) == asked_before + 3
    await served_again(site)
    assert (await right(site, prompt)).cache in ("hit", "miss")
    assert (await right(site, prompt, stream=True)).cache == "hit"
    errors = 0 if outage.__name__ == "killed" else errors  # the store's sums began anew
    await site.counted("errors", more_than=errors)


async def test_a_full_store_still_serves_what_it_holds(site: Site) -> None:
    await right(site, prompt := new_prompt())
    async with full(site):
        assert (await right(site, prompt)).cache == "hit"
        assert (await right(site, other := new_prompt())).cache == "miss"
        # Not kept; but who comes at once may still share it.
        assert (await right(site, other)).cache in ("miss", "shared")


async def test_a_store_that_hangs_once_it_was_asked_costs_50_ms_at_most(silent: Site) -> None:
    site = await at_rest(silent)

    async def hang_and_answer(visit: Visit) -> None:
        site.server.hang()
        await MODEL(visit)

    costs = []
    for attempt in range(ATTEMPTS):
        stream = attempt % 2 == 1
        usual = max([await timed(site, stream=stream) for _ in range(4)])
        site.upstream.play(hang_and_answer, MODEL)
        costs.append(await timed(site, stream=stream) - usual)
        site.server.go_on()
        await served_again(site)
    assert min(costs) < BUDGET_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize(
    ("spoil", "count"),
    [
        (other_type, "errors"),
        (foreign, "corrupt"),
        (truncated, "corrupt"),
        (flipped, "corrupt"),
        (moved, "corrupt"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_no_answer_of_this_request_is_counted_and_replaced(
    site: Site, spoil: Spoil, count: str, stream: bool
) -> None:
    _, other = await kept(site)
    prompt, key = await kept(site)
    before, visits = await site.counted(count), len(site.upstream.visits)
    await spoil(site.cache, key, other)
    assert (await right(site, prompt, stream=stream)).cache == "miss"
    assert len(site.upstream.visits) == visits + 1
    await site.counted(count, more_than=before)
    assert (await right(site, prompt, stream=not stream)).cache in AT_ONCE
    assert len(site.upstream.visits) == visits + 1


async def test_a_lock_of_another_type_keeps_nobody_from_an_answer(site: Site) -> None:
    prompt, key = await kept(site)
    await site.cache.call("DEL", key)
    await site.cache.call("RPUSH", b"flight:" + key.split(b":")[1], "held")
    assert (await right(site, prompt)).cache == "miss"
    assert (await right(site, prompt)).cache in AT_ONCE


async def kept(site: Site) -> tuple[str, bytes]:
    """Return a prompt, and where its answer is kept."""
    others = await site.keys()
    await right(site, prompt := new_prompt())
    [key] = set(await site.keys()) - set(others)
    return prompt, key
