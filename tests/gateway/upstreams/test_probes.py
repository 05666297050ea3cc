"""Servers that are asked for their health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from adapters.base import Task
from adapters.errors import Failed, Unreachable
from adapters.transport import Transport
from gateway.config import Settings
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.choice import choose
from gateway.upstreams.health import Health
from gateway.upstreams.probes import Probes
from gateway.upstreams.target import Target
from tests.gateway.fake_book import Clock
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

WELL = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOk"
SICK = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
NO_SUCH_PAGE = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
PAUSE_SECONDS = 0.02


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(lambda visit: visit.send(WELL)) as upstream:
        yield upstream


@asynccontextmanager
async def probed(url: str, clock: Clock | None = None, **options: Any) -> AsyncIterator[Target]:
    """Yield a target whose upstream is asked for its health. By `clock` it rests."""
    given = {"name": "u", "dialect": "openai", "base_url": url, "health_path": "/health"}
    model = {"id": "m", "targets": [{"upstream": "u"}]}
    settings = Settings.model_validate({"upstreams": [given | options], "models": [model]})
    transport = Transport()
    [target] = Catalog(settings, transport).models[0].targets
    target.health = Health(clock=clock or Clock())
    try:
        async with Probes([target], pause_seconds=PAUSE_SECONDS):
            yield target
    finally:
        await transport.aclose()


def exhaust(target: Target, error: type[Failed | Unreachable] = Unreachable) -> None:
    for _ in range(3):
        target.note(Task.CHAT, error("oops"))


async def until(is_it: Callable[[], bool]) -> None:
    while not is_it():  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(0.005)


async def test_the_page_is_asked_for_from_the_root_of_the_host(upstream: Upstream) -> None:
    async with probed(f"{upstream.url}/some/path/v1", health_path="/health?deep=1") as target:
        exhaust(target)
        visit = await upstream.arrival()
    assert (visit.method, visit.path) == ("GET", "/health?deep=1")


async def test_a_server_that_is_fit_is_left_alone(upstream: Upstream) -> None:
    async with probed(upstream.url):
        await asyncio.sleep(20 * PAUSE_SECONDS)
    assert upstream.visits == []


async def test_one_that_is_down_stays_out_until_it_is_well_and_then_returns_at_once(
    upstream: Upstream,
) -> None:
    upstream.play(SICK)
    async with probed(upstream.url) as target:
        exhaust(target)
        await until(lambda: target.health.is_down)
        assert not target.may_be_asked(Task.CHAT)
        assert target.state == "down"
        upstream.play(WELL)
        await until(lambda: target.may_be_asked(Task.CHAT))
        assert target.health.is_resting  # the next request tries it out


async def test_it_stays_out_beyond_its_rest_while_its_page_says_so(upstream: Upstream) -> None:
    clock = Clock()
    upstream.play(SICK)
    async with probed(upstream.url, clock) as target:
        exhaust(target)
        await until(lambda: target.health.is_down)
        clock.seconds += 60  # its rest is over by now
        for _ in range(3):
            await upstream.arrival()
        assert choose([target], Task.CHAT) is None


async def test_one_that_fails_though_its_page_is_well_rests_all_the_same(
    upstream: Upstream,
) -> None:
    async with probed(upstream.url) as target:
        exhaust(target, Failed)
        for _ in range(3):
            await upstream.arrival()
        assert not target.may_be_asked(Task.CHAT)


async def test_an_address_without_such_a_page_keeps_no_server_out(upstream: Upstream) -> None:
    upstream.play(NO_SUCH_PAGE)
    async with probed(upstream.url) as target:
        exhaust(target)
        await upstream.arrival()
        await upstream.arrival()
        assert not target.health.is_down


async def test_an_answered_request_outweighs_the_page(upstream: Upstream) -> None:
    upstream.play(SICK)
    async with probed(upstream.url) as target:
        exhaust(target)
        await until(lambda: target.health.is_down)
        target.note(Task.CHAT, None)
        assert target.may_be_asked(Task.CHAT)


async def test_with_an_interval_a_dead_server_leaves_and_returns_without_any_request(
    upstream: Upstream,
) -> None:
    upstream.play(lambda visit: _reset(visit))
    async with probed(upstream.url, health_interval_seconds=PAUSE_SECONDS) as target:
        await until(lambda: not target.may_be_asked(Task.CHAT))
        upstream.play(WELL)
        await until(lambda: target.may_be_asked(Task.CHAT))
        assert not target.health.is_resting


async def test_one_question_at_a_time_is_asked(upstream: Upstream) -> None:
    answer = asyncio.Event()

    async def hesitate(visit: Visit) -> None:
        await answer.wait()
        await visit.send(WELL)

    upstream.play(hesitate)
    async with probed(upstream.url, health_interval_seconds=PAUSE_SECONDS):
        await upstream.arrival()
        await asyncio.sleep(10 * PAUSE_SECONDS)
        assert len(upstream.visits) == 1
        answer.set()
        await upstream.arrival()
    assert upstream.most_at_once == 1


async def test_nothing_is_asked_after_the_end(upstream: Upstream) -> None:
    async with probed(upstream.url, health_interval_seconds=PAUSE_SECONDS):
        await upstream.arrival()
    asked = len(upstream.visits)
    await asyncio.sleep(10 * PAUSE_SECONDS)
    assert len(upstream.visits) == asked


@pytest.mark.parametrize("options", [{"dialect": "tgi"}, {"dialect": "tgi", "scale_to_zero": True}])
async def test_a_server_that_sleeps_is_not_woken_by_the_question(options: dict[str, Any]) -> None:
    async with probed("http://127.0.0.1:9", health_path=None, **options) as target:
        path = target.upstream.health_path
    assert path == (None if "scale_to_zero" in options else "/health")


async def _reset(visit: Visit) -> None:
    visit.reset()
