"""Templates loaded in the background, while requests wait or are told why not."""

import asyncio
import threading

import pytest

from gateway.template_shelf import TemplateShelf
from gateway.templates import TemplateUnavailable
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio


class _Loads:
    """Stands for `Template.load`: each load waits until it is let go."""

    def __init__(self):
        self.begun: list[str] = []
        self.running = self.most_running = 0
        self.broken: set[str] = set()
        self.gate = threading.Semaphore(0)
        self.retried = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def __call__(self, source):
        if source in self.begun:
            self.loop.call_soon_threadsafe(self.retried.set)
        self.begun.append(source)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        assert self.gate.acquire(timeout=PATIENCE_SECONDS)
        self.running -= 1
        if source in self.broken:
            raise TemplateUnavailable(f"{source} is broken")
        return f"template of {source}"


@pytest.fixture
async def loads():
    loads = _Loads()
    yield loads
    loads.gate.release(100)


async def test_a_request_waits_for_the_load_under_way(loads):
    async with TemplateShelf(["a", "b"], load=loads) as shelf:
        assert shelf.pending == ("a", "b")
        waiting = asyncio.create_task(shelf.get("b"))
        loads.gate.release(2)
        assert await waiting == "template of b"
        assert await shelf.get("a") == "template of a"
        assert (shelf.pending, shelf.failed) == ((), {})
    assert (loads.begun, loads.most_running) == (["a", "b"], 1)


async def test_waiting_ends_after_its_bound(loads):
    async with TemplateShelf(["a"], load=loads, wait_seconds=0.01) as shelf:
        with pytest.raises(TemplateUnavailable, match="'a' is still being loaded") as raised:
            await shelf.get("a")
        assert raised.value.retry_after_seconds == 0.01
        assert shelf.pending == ("a",)


async def test_a_failed_load_is_remembered_with_its_reason(loads):
    loads.broken, _ = {"a"}, loads.gate.release(2)
    async with TemplateShelf(["a", "b"], load=loads, retry_seconds=60) as shelf:
        with pytest.raises(TemplateUnavailable, match="a is broken") as raised:
            await shelf.get("a")
        assert raised.value.retry_after_seconds == 60
        assert shelf.failed == {"a": "a is broken"}
        assert await shelf.get("b") == "template of b"
    assert loads.begun == ["a", "b"]


async def test_a_failed_load_is_tried_again(loads):
    loads.broken, _ = {"a"}, loads.gate.release()
    async with TemplateShelf(["a"], load=loads, retry_seconds=0.001) as shelf:
        with pytest.raises(TemplateUnavailable):
            await shelf.get("a")
        loads.broken = set()
        await loads.retried.wait()
        assert (shelf.pending, shelf.failed) == (("a",), {"a": "a is broken"})
        loads.gate.release()
        assert await shelf.get("a") == "template of a"
        assert (shelf.pending, shelf.failed) == ((), {})


async def test_a_source_outside_of_the_catalogue_is_not_loaded(loads):
    async with TemplateShelf([], load=loads) as shelf:
        with pytest.raises(TemplateUnavailable, match="'evil/model'"):
            await shelf.get("evil/model")
    assert loads.begun == []
