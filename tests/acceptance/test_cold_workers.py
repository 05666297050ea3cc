"""A model that is loading behind several worker processes: one of them asks after it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.acceptance.caching.served import Served, stores_of
from tests.acceptance.events import chat
from tests.acceptance.recordings import recording
from tests.acceptance.test_cold_start import loading
from tests.patience import Stopwatch
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

WORKERS, EACH = 3, 5
ANSWER = recording("openai/vllm.answer").whole()


class Loading:
    """Plays a model that loads. `asked`: after which prompts, since all clients have come."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_loaded = False
        self._news = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        self.asked.append(visit.body["messages"][0]["content"])
        self._news.set()
        await visit.send(ANSWER if self.is_loaded else loading(0.3))

    async def more(self, count: int) -> list[str]:
        """Return the next prompts that it is asked for."""
        begin = len(self.asked)
        while len(self.asked) < begin + count:
            self._news.clear()
            await self._news.wait()
        return self.asked[begin:]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[Served, Loading]]:
    model = Loading()
    async with Upstream(model) as upstream:
        gateway = Served(tmp_path / "g", upstream.url, workers=WORKERS)
        await gateway.start()
        try:
            yield gateway, model
        finally:
            await gateway.end()


def ask(client: httpx.AsyncClient, worker: int) -> asyncio.Task[httpx.Response]:
    body = chat("m", messages=[{"role": "user", "content": str(worker)}])
    return asyncio.create_task(client.post("/chat/completions", json=body))


async def test_one_worker_asks_for_all_and_another_when_that_one_is_killed(
    gateway: tuple[Served, Loading],
) -> None:
    served, model = gateway
    async with AsyncExitStack() as closing:
        _, cache = await closing.enter_async_context(stores_of(served.data_dir))
        workers = await served.complete(cache)
        clients = {one: await served.pinned(closing, one, EACH) for one in workers}
        asking = {one: [ask(client, one) for client in clients[one]] for one in workers}
        while len(set(model.asked)) < WORKERS:
            await model.more(1)
        await model.more(WORKERS * EACH)  # the last of those who did not know
        [holder] = map(int, set(await model.more(4)))
        os.kill(holder, signal.SIGKILL)
        async with Stopwatch() as watch:
            await asyncio.gather(*asking.pop(holder), return_exceptions=True)
            [successor] = map(int, set(await model.more(4)))
        assert successor in asking
        assert watch.seconds < 8  # the turn of the dead, and four questions
        model.is_loaded = True
        replies = await asyncio.gather(*(task for tasks in asking.values() for task in tasks))
        assert {reply.status_code for reply in replies} == {200}
