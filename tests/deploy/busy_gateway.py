"""A gateway of two processes, and everything that can happen to one in half a minute."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from gateway import embedded
from gateway.book import Book
from gateway.keys import load_pepper
from gateway.store import Store
from tests.acceptance.metering.exchange_kinds import KINDS
from tests.gateway.metrics.happenings import (
    CHAT,
    SEEDED,
    Happening,
    a_look_at_its_health,
    a_lost_connection,
    a_model_that_loads,
    a_value_that_was_damaged,
    an_unknown_model,
    an_upstream_that_is_gone,
    asking,
    holding,
    too_many_requests,
)
from tests.gateway.metrics.site import Site, settings_of
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit
from tests.served import serve

WORKERS = 2
_STREAM = KINDS["openai-chat-stream"]
_TOKEN_SECONDS = 0.02


@asynccontextmanager
async def a_stream(site: Site) -> AsyncIterator[None]:
    async def speak(visit: Visit) -> None:
        for _, step in _STREAM.steps:
            await asyncio.sleep(_TOKEN_SECONDS)
            await visit.send(step)

    site.upstream.play(speak)
    answer = await site.client.post(f"/v1{_STREAM.path}", **_STREAM.request)
    assert answer.status_code == 200
    yield


@asynccontextmanager
async def a_client_that_leaves(site: Site) -> AsyncIterator[None]:
    async def begin(visit: Visit) -> None:
        await visit.send(_STREAM.steps[0][1])
        await visit.left.wait()

    site.upstream.play(begin)
    async with site.client.stream("POST", f"/v1{_STREAM.path}", **_STREAM.request) as answer:
        await anext(answer.aiter_bytes())
    yield


def an_answer_for_two(seed: int) -> Happening:
    """Return the happening of two equal requests at once."""

    @asynccontextmanager
    async def happen(site: Site) -> AsyncIterator[None]:
        async with holding("openai/text", 2, **{**SEEDED, "seed": seed})(site):
            await site.until(
                lambda told: told.value("dragoman_requests_in_flight", task="chat") == 2
            )
        yield

    return happen


def everything(number: int) -> Sequence[Happening]:
    """Return it; `number` makes new what the cache would have from another time."""
    return (
        asking(CHAT, times=200),
        a_stream,
        asking(CHAT, **{**SEEDED, "seed": 100 + number}, times=5),
        an_answer_for_two(200 + number),
        asking("images", times=3),
        asking("speech", input=f"Sentence {number}.", times=3),
        asking("embeddings", times=3),
        asking("transcription"),
        a_model_that_loads,
        a_client_that_leaves,
        a_lost_connection,
        a_value_that_was_damaged,
        too_many_requests,
        an_unknown_model,
        an_upstream_that_is_gone,
        a_look_at_its_health,
    )


@asynccontextmanager
async def at_work(site: Site) -> AsyncIterator[None]:
    """Hold requests, of which one at least waits for its turn, and yield when it is told."""
    # The limit of `narrow` is each worker's: of three, two are at the same one.
    async with holding("openai/text", 2)(site), holding("narrow/text", WORKERS + 1)(site):
        await site.until(
            lambda told: (
                told.value("dragoman_queue_length") > 0
                and told.value("dragoman_requests_in_flight", task="chat") == WORKERS + 3
            )
        )
        yield


@asynccontextmanager
async def busy_gateway(data_dir: Path) -> AsyncIterator[tuple[Site, int]]:
    """Yield a gateway that serves, and its port. Each request has a connection of its own."""
    async with AsyncExitStack() as closing:
        upstream = await closing.enter_async_context(Upstream(_unexpected))
        told = settings_of(upstream.url)
        told |= {"logs": {"access": False}}  # nobody reads them
        environment = {f"DRAGOMAN__{name.upper()}": json.dumps(told[name]) for name in told}
        served = await closing.enter_async_context(
            serve(data_dir, "--workers", str(WORKERS), env=environment)
        )
        port = await served.ready()
        closing.push_async_callback(served.end, signal.SIGTERM)
        book = await Book.open(data_dir)
        closing.push_async_callback(book.aclose)
        state, cache = map(Store, embedded.urls(data_dir))
        closing.push_async_callback(state.aclose)
        closing.push_async_callback(cache.aclose)
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
            timeout=PATIENCE_SECONDS,
        )
        await closing.enter_async_context(client)
        site = Site(client, upstream, book, state, cache, data_dir, load_pepper(data_dir))
        client.headers["authorization"] = f"Bearer {await site.new_key()}"
        yield site, port


async def _unexpected(visit: Visit) -> None:
    raise AssertionError(f"nothing may reach the upstream, but {visit.raw!r} did")
