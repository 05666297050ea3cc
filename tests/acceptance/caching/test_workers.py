"""One upstream call for all who ask the same, whichever worker of whichever gateway they reach."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.store import Store
from tests.acceptance.caching.model import PATIENCE_SECONDS, Asked, Model, ask, asking, chat
from tests.acceptance.caching.served import (
    Served,
    hear_each_other,
    server_pair,
    store_at,
    stores_of,
    under_way,
)
from tests.acceptance.events import DONE
from tests.acceptance.raw_client import sent
from tests.gateway.state_server import RealServer
from tests.gateway_fixture import Gateway
from tests.scripted_upstream import Upstream

pytestmark = pytest.mark.anyio

WORKERS, EACH = 4, 50
MODEL = Model()


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway of four workers, its stores and its upstream."""

    gateway: Served
    state: Store
    cache: Store
    upstream: Upstream

    async def clients(self, closing: AsyncExitStack, count: int) -> list[list[httpx.AsyncClient]]:
        """Return so many clients of each worker."""
        workers = await self.gateway.complete(self.cache)
        return [await self.gateway.pinned(closing, worker, count) for worker in workers]


@pytest.fixture(scope="module")
async def running(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """Counters and ledger must agree when all tests have had it."""
    folder = tmp_path_factory.mktemp("served")
    async with Upstream(MODEL) as upstream:
        gateway = Served(folder, upstream.url, workers=WORKERS)
        await gateway.start()
        try:
            async with stores_of(gateway.data_dir) as (state, cache):
                yield Site(gateway, state, cache, upstream)
            code, said = await gateway.run("usage", "--reconcile")
            assert code == 0, said
        finally:
            await gateway.end()


@pytest.fixture
async def site(running: Site) -> AsyncIterator[Site]:
    """The gateway with nothing under way but what killed workers have left."""
    running.upstream.rest()
    yield running
    running.upstream.rest()


@pytest.fixture
def prompt() -> str:
    """What nobody has asked before."""
    return secrets.token_hex(8)


@pytest.mark.parametrize("stream", [False, True])
async def test_four_workers_of_fifty_identical_requests_ask_the_upstream_once_a_round(
    site: Site, stream: bool
) -> None:
    async with AsyncExitStack() as closing:
        clients = [one for some in await site.clients(closing, EACH) for one in some]
        prompts = [secrets.token_hex(8) for _ in range(3)]
        for prompt in prompts:
            gate = asyncio.Event()
            site.upstream.play(MODEL.held(gate))
            async with asking(clients, prompt, stream=stream) as asked:
                await under_way(site.state, WORKERS * EACH)
                gate.set()
                await asyncio.gather(*(one.ends() for one in asked))
            assert all(one.is_answer(MODEL.text(prompt)) for one in asked)
            assert Counter(one.cache for one in asked) == {"miss": 1, "shared": WORKERS * EACH - 1}
        assert len(site.upstream.visits) == len(prompts)
        async with asking(clients, prompts[-1], stream=stream) as asked:
            await asyncio.gather(*(one.ends() for one in asked))
        assert all(one.is_answer(MODEL.text(prompts[-1])) for one in asked)
        assert Counter(one.cache for one in asked) == {"hit": WORKERS * EACH}
        assert len(site.upstream.visits) == len(prompts)


async def test_frames_reach_the_clients_of_all_workers_while_they_are_made(
    site: Site, prompt: str
) -> None:
    begin, go_on = asyncio.Event(), asyncio.Event()
    site.upstream.play(MODEL.held(begin, go_on))
    begin.set()
    async with AsyncExitStack() as closing:
        clients = [one for [one] in await site.clients(closing, 1)]
        async with asking(clients, prompt, stream=True) as asked:
            await asyncio.gather(*(one.begun() for one in asked))
            assert {one.text for one in asked} == {MODEL.text(prompt)[: MODEL.size]}
            go_on.set()
            await asyncio.gather(*(one.ends() for one in asked))
    assert all(one.is_answer(MODEL.text(prompt)) for one in asked)
    assert len(site.upstream.visits) == 1


async def test_a_client_that_reads_slowly_holds_up_nobody(site: Site, prompt: str) -> None:
    loud = Model(pieces=96, size=64 * 1024)  # more than all the buffers on the way hold
    gate = asyncio.Event()
    site.upstream.play(loud.held(gate))
    async with AsyncExitStack() as closing:
        clients = [one for [one] in await site.clients(closing, 1)]
        address = Gateway(site.gateway.port, site.gateway.key)
        slow = await closing.enter_async_context(sent(address, chat(prompt, stream=True)))
        async with asking(clients, prompt, stream=True) as asked:
            await under_way(site.state, 1 + WORKERS)
            gate.set()
            await asyncio.gather(*(one.ends() for one in asked))
            await under_way(site.state, 1)
        assert all(one.is_answer(loud.text(prompt)) for one in asked)
        late = Asked(chat(prompt, stream=True))
        await slow.readuntil(b"\r\n\r\n")
        while size := int(await slow.readline(), 16):
            late.data += (await slow.readexactly(size + 2))[:-2]
    assert late.text == loud.text(prompt)
    assert late.events[-1] == DONE
    assert len(site.upstream.visits) == 1


async def test_when_the_leaders_client_leaves_the_others_get_everything(
    site: Site, prompt: str
) -> None:
    begin, go_on = asyncio.Event(), asyncio.Event()
    site.upstream.play(MODEL.held(begin, go_on))
    async with AsyncExitStack() as closing:
        [leader], *others = await site.clients(closing, 1)
        following = [one for [one] in others]
        async with asking([leader], prompt, stream=True):
            await site.upstream.arrival()
            stack = await closing.enter_async_context(AsyncExitStack())
            asked = await stack.enter_async_context(asking(following, prompt, stream=True))
            await under_way(site.state, WORKERS)
            begin.set()
            await asyncio.gather(*(one.begun() for one in asked))
        await under_way(site.state, len(following))
        go_on.set()
        await asyncio.gather(*(one.ends() for one in asked))
    assert all(one.is_answer(MODEL.text(prompt)) for one in asked)
    assert len(site.upstream.visits) == 1


async def test_when_the_last_client_leaves_the_upstream_is_hung_up_on_within_a_second(
    site: Site, prompt: str
) -> None:
    begin, never = asyncio.Event(), asyncio.Event()
    begin.set()
    site.upstream.play(MODEL.held(begin, never))
    took = []
    async with AsyncExitStack() as closing:
        for attempt in range(3):  # the machine may be busy
            clients = [one for [one] in await site.clients(closing, 1)]
            async with asking(clients, f"{prompt} {attempt}", stream=True) as asked:
                await asyncio.gather(*(one.begun() for one in asked))
            left_at = time.monotonic()
            await (await site.upstream.arrival()).gone(within_seconds=PATIENCE_SECONDS)
            took.append(time.monotonic() - left_at)
    assert min(took) < 1
    assert len(site.upstream.visits) == len(took)


async def test_when_the_leader_is_killed_before_a_first_frame_another_worker_takes_its_place(
    site: Site, prompt: str
) -> None:
    never = asyncio.Event()
    site.upstream.play(MODEL.held(never), MODEL)
    async with AsyncExitStack() as closing:
        pids = await site.gateway.complete(site.cache)
        leaders, *others = [await site.gateway.pinned(closing, pid, 4) for pid in pids]
        following = [one for some in others for one in some]
        async with asking(leaders, prompt, stream=None) as lost:
            await site.upstream.arrival()
            async with asking(following, prompt, stream=None) as asked:
                await under_way(site.state, len(leaders) + len(following))
                os.kill(pids[0], signal.SIGKILL)
                await asyncio.gather(*(one.ends() for one in [*asked, *lost]))
    assert all(one.is_cut for one in lost)
    assert all(one.is_answer(MODEL.text(prompt)) for one in asked)
    assert 2 <= len(site.upstream.visits) <= 3


async def test_when_the_leader_is_killed_after_a_first_frame_nobody_hangs_or_gets_half_an_answer(
    site: Site, prompt: str
) -> None:
    begin, never = asyncio.Event(), asyncio.Event()
    begin.set()
    site.upstream.play(MODEL.held(begin, never), MODEL)
    async with AsyncExitStack() as closing:
        pids = await site.gateway.complete(site.cache)
        leaders, *others = [await site.gateway.pinned(closing, pid, 4) for pid in pids]
        following = [one for some in others for one in some]
        async with asking(leaders, prompt, stream=True) as lost:
            await asyncio.gather(*(one.begun() for one in lost))
            async with asking(following, prompt, stream=None) as asked:
                streams = [one for one in asked if one.request["stream"]]
                await asyncio.gather(*(one.begun() for one in streams))
                os.kill(pids[0], signal.SIGKILL)
                await asyncio.gather(*(one.ends() for one in [*asked, *lost]))
    assert all(one.is_cut for one in lost)
    for one in asked:
        assert one.is_answer(MODEL.text(prompt)) or _is_clean_error(one)
    code, said = await site.gateway.run("usage", "--reconcile")
    assert code == 0, said


def _is_clean_error(asked: Asked) -> bool:
    """Tell whether an answer ends with an error that says so."""
    if asked.is_cut:
        return False
    if asked.status != 200:
        return asked.status == 502 and b'"error"' in asked.data
    return "error" in asked.events[-1] and DONE not in asked.events


async def test_two_gateways_with_the_same_stores_share_one_upstream_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    monkeypatch.setenv("DRAGOMAN_PEPPER", secrets.token_hex(16))
    async with Upstream(MODEL) as upstream, AsyncExitStack() as closing:
        servers = closing.enter_context(server_pair(tmp_path))
        state, cache = [
            await closing.enter_async_context(store_at(server.url)) for server in servers
        ]
        gateways = await _gateways(closing, tmp_path, upstream.url, servers)
        await hear_each_other(cache, len(gateways))
        clients = [await closing.enter_async_context(gateway.client()) for gateway in gateways * 4]
        gate = asyncio.Event()
        upstream.play(MODEL.held(gate))
        async with asking(clients, prompt, stream=True) as asked:
            await under_way(state, len(clients))
            gate.set()
            await asyncio.gather(*(one.ends() for one in asked))
        assert all(one.is_answer(MODEL.text(prompt)) for one in asked)
        assert Counter(one.cache for one in asked) == {"miss": 1, "shared": len(clients) - 1}
        assert [(await ask(client, prompt)).cache for client in clients[:2]] == ["hit", "hit"]
        assert len(upstream.visits) == 1


async def _gateways(
    closing: AsyncExitStack, folder: Path, url: str, servers: tuple[RealServer, RealServer]
) -> list[Served]:
    """Start two gateways, each with a data directory of its own, and nothing else."""
    state, cache = servers
    store = f"""
    [store]
    state = "{state.url}"
    cache = "{cache.url}"
    book = "sqlite://{folder / "book.sqlite3"}"
    """
    gateways = [Served(folder / name, url, workers=1, store=store) for name in ("a", "b")]
    for gateway in gateways:
        gateway.key = gateways[0].key  # only on the first run it is shown
        await gateway.start()
        closing.push_async_callback(gateway.end)
    return gateways
