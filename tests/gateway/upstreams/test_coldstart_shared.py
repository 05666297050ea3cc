"""One model that is loading, and the workers that wait for it over one store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from adapters.errors import ModelLoading
from gateway.store import Store
from gateway.upstreams.coldstart import ColdStart
from gateway.upstreams.outlook import Outlook
from gateway.upstreams.shared_watch import SharedWatch, shared_in
from tests.gateway.state_server import RealServer, proxy
from tests.patience import PATIENCE_SECONDS, Stopwatch

pytestmark = pytest.mark.anyio


class Model:
    """Loads until it is told that it has. `asked`: by whom, in order."""

    def __init__(self, estimate_seconds: float = 0.1) -> None:
        self.asked: list[str] = []
        self.is_loaded = False
        self._estimate_seconds = estimate_seconds
        self._news = asyncio.Event()

    async def ask(self, worker: str) -> str:
        self.asked.append(worker)
        self._news.set()
        if not self.is_loaded:
            seconds = self._estimate_seconds
            raise ModelLoading("loading", status=503, retry_after_seconds=seconds)
        return f"answer to {worker}"

    async def was_asked(self, times: int, by: str | None = None) -> None:
        while sum(by in (None, one) for one in self.asked) < times:
            self._news.clear()
            await self._news.wait()


class Worker:
    def __init__(self, name: str, store: Store, model: Model, patience_seconds: float) -> None:
        watches = shared_in(store, patience_seconds=patience_seconds)
        self.cold_start = ColdStart(watches("http://u m"))
        self.store = store
        self._name = name
        self._model = model

    def ask(self, wait_seconds: float = PATIENCE_SECONDS) -> asyncio.Task[str]:
        return asyncio.create_task(
            self.cold_start.when_loaded(
                lambda: self._model.ask(self._name), wait_seconds=wait_seconds
            )
        )


@asynccontextmanager
async def workers(
    url: str, model: Model, *names: str, patience_seconds: float = 5
) -> AsyncIterator[list[Worker]]:
    """Yield workers that take no busy store for a lost one, unless they are impatient."""
    async with AsyncExitStack() as closing:
        made = []
        for name in names:
            store = Store(url, timeout_seconds=patience_seconds, probe_seconds=0.05)
            closing.push_async_callback(store.aclose)
            await store.call("PING")
            made.append(Worker(name, store, model, patience_seconds))
        yield made


@pytest.fixture
async def store(server: RealServer) -> AsyncIterator[Store]:
    """The server as no worker sees it."""
    store = Store(server.url, timeout_seconds=5)
    yield store
    await store.aclose()


async def looks(store: Store) -> int:
    """Return how often workers have looked, or let go of their turn."""
    stats = (await store.call("INFO", "commandstats")).decode().splitlines()
    fields = [line.split(",") for line in stats if line.startswith("cmdstat_eval")]
    counts = [dict(field.split("=") for field in line[1:]) for line in fields]
    calls = sum(int(line[0].partition("=")[2]) for line in fields)
    return calls - sum(int(count["failed_calls"]) for count in counts)


async def looked(store: Store, times: int) -> None:
    """Wait until there were so many looks."""
    while await looks(store) < times:  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(0.01)


def watches(store: Store) -> list[SharedWatch]:
    """Return the watches of two workers, which wait as long as the machine needs."""
    patience = {"patience_seconds": PATIENCE_SECONDS}
    return [SharedWatch(store, "http://u m", token=token, **patience) for token in "ab"]


async def test_of_all_workers_one_asks_and_all_get_their_answers(server: RealServer) -> None:
    model = Model()
    async with workers(server.url, model, *"abc") as all_of_them:
        tasks = [worker.ask() for worker in all_of_them for _ in range(20)]
        await model.was_asked(8)
        assert sorted(model.asked[:3]) == ["a", "b", "c"]  # before any of them knew
        assert len(set(model.asked[3:])) == 1
        model.is_loaded = True
        assert len(await asyncio.gather(*tasks)) == 60
        assert not any(worker.cold_start.loading for worker in all_of_them)


@pytest.mark.parametrize("finder", [lambda one, other: one, lambda one, other: other])
async def test_all_workers_hear_within_a_second_that_it_is_loaded(
    server: RealServer, store: Store, finder: Callable[[Worker, Worker], Worker]
) -> None:
    """Whichever of them has found out, and whichever has the turn to ask."""
    model = Model(estimate_seconds=50)  # after which nobody would ask for five seconds
    async with workers(server.url, model, *"ab") as (one, other):
        tasks = [one.ask(), other.ask()]
        await looked(store, 2)
        model.is_loaded = True
        async with Stopwatch() as watch:
            assert await finder(one, other).ask(wait_seconds=0)  # one who does not wait
            await asyncio.gather(*tasks)
        assert watch.seconds < 1


async def test_another_takes_over_when_the_one_who_asks_leaves(server: RealServer) -> None:
    model = Model()
    async with workers(server.url, model, *"ab") as (one, other):
        asking = one.ask()
        await model.was_asked(3, by="a")
        waiting = other.ask()
        await model.was_asked(1, by="b")
        asking.cancel()
        await model.was_asked(4, by="b")
        model.is_loaded = True
        assert await waiting == "answer to b"


async def test_another_takes_over_within_seconds_from_one_that_has_died(
    server: RealServer,
) -> None:
    model = Model()
    async with workers(server.url, model, *"ab") as (dead, worker):
        asking = dead.ask()
        await model.was_asked(2)
        await dead.store.aclose()  # as if it were killed: it renews nothing and tells nothing
        async with Stopwatch() as watch:
            waiting = worker.ask()
            await model.was_asked(2, by="b")
        assert watch.seconds < 5
        model.is_loaded = True
        await asyncio.gather(asking, waiting)


async def test_a_turn_is_kept_while_an_answer_takes_long(store: Store) -> None:
    one, other = watches(store)
    outlook = Outlook()
    outlook.hear(20)
    one.leave(is_loaded=False)  # a script that the server does not know yet is late by one trip
    await store.call("PING")
    assert (await one.look(outlook, is_news=True)).is_ours
    await asyncio.sleep(4)  # longer than a turn lasts
    assert not (await other.look(outlook, is_news=True)).is_ours
    one.leave(is_loaded=False)
    assert (await other.look(outlook, is_news=True)).is_ours
    other.leave(is_loaded=True)


async def test_the_last_word_of_the_upstream_counts(store: Store) -> None:
    one, other = watches(store)
    one.leave(is_loaded=True)
    assert (await other.look(Outlook(), is_news=False)).is_loaded
    assert not (await other.look(Outlook(), is_news=True)).is_loaded
    assert not (await one.look(Outlook(), is_news=False)).is_loaded
    other.leave(is_loaded=False)


async def test_an_estimate_counts_from_when_the_first_worker_heard_it(
    server: RealServer, store: Store
) -> None:
    model = Model(estimate_seconds=20)
    async with workers(server.url, model, *"ab") as (one, other):
        began = time.monotonic()
        first = one.ask()
        await looked(store, 1)
        await asyncio.sleep(0.5)
        late = other.ask()
        await model.was_asked(1, by="b")
        await other.store.call("PING")  # its look, which was sent before, is answered
        with pytest.raises(ModelLoading) as raised:
            await other.ask(wait_seconds=1)
        earliest = 20 - (time.monotonic() - began)
        assert earliest - 0.01 < (raised.value.retry_after_seconds or 0) < 20 - 0.5
        for task in (first, late):
            task.cancel()


async def test_a_worker_that_waits_looks_four_times_a_second(
    server: RealServer, store: Store
) -> None:
    model = Model(estimate_seconds=20)
    async with workers(server.url, model, *"ab") as (one, other):
        tasks = [one.ask()]
        await looked(store, 1)
        tasks += [other.ask() for _ in range(10)]
        await looked(store, 2)
        await store.call("CONFIG", "RESETSTAT")
        began = time.monotonic()
        async with Stopwatch() as watch:
            await looked(store, 10)  # half of them are the other's
        assert time.monotonic() - began > 0.7
        assert watch.seconds < 3
        for task in tasks:
            task.cancel()


@pytest.mark.parametrize("trouble", ["kill", "hang"])
async def test_without_the_store_every_worker_asks_for_itself(
    server: RealServer, trouble: str
) -> None:
    model = Model()
    async with workers(server.url, model, *"ab", patience_seconds=0.05) as both:
        getattr(server, trouble)()
        tasks = [worker.ask() for worker in both for _ in range(5)]
        await asyncio.gather(model.was_asked(8, by="a"), model.was_asked(8, by="b"))
        model.is_loaded = True
        assert len(await asyncio.gather(*tasks)) == 10
        server.go_on()


async def test_a_look_at_a_slow_store_takes_fifty_milliseconds(
    server: RealServer,
) -> None:
    async with proxy(server.socket, delay_seconds=1) as port:
        store = Store(f"redis://127.0.0.1:{port}", timeout_seconds=1)
        watch = SharedWatch(store, "m", token="a")
        async with Stopwatch() as stopwatch:
            assert (await watch.look(Outlook(), is_news=False)).is_ours
        watch.leave(is_loaded=True)
        await store.aclose()
    assert stopwatch.seconds < 0.2


async def test_what_is_written_goes_away_by_itself(server: RealServer, store: Store) -> None:
    async with workers(server.url, Model(), "a") as [worker]:
        asking = worker.ask()
        await looked(store, 1)
        keys = await store.call("KEYS", "*")
        lifetimes = [await store.call("PTTL", key) for key in keys]
        asking.cancel()
    assert len(keys) == 2
    assert all(0 < ms <= 60_000 for ms in lifetimes)


async def test_models_do_not_wait_for_each_other(server: RealServer) -> None:
    models = [Model(), Model()]
    async with workers(server.url, models[0], "a") as [one]:
        other = ColdStart(shared_in(one.store)("http://u n"))
        tasks = [
            one.ask(),
            asyncio.ensure_future(
                other.when_loaded(lambda: models[1].ask("b"), wait_seconds=PATIENCE_SECONDS)
            ),
        ]
        for model in models:
            await model.was_asked(3)
            model.is_loaded = True
        await asyncio.gather(*tasks)
