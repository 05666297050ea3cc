"""Blocking work: at most so much at once, whoever still waits for it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.threads import Threads

pytestmark = pytest.mark.anyio


class Work:
    """Blocks until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(5)
        return "done"


async def test_work_whose_caller_left_keeps_its_thread_until_its_end() -> None:
    threads, first, second = Threads(1), Work(), Work()
    leaving = asyncio.create_task(threads.run(first))
    assert await asyncio.to_thread(first.begun.wait, 5)
    leaving.cancel()
    await asyncio.wait({leaving})
    staying = asyncio.create_task(threads.run(second))
    assert not await asyncio.to_thread(second.begun.wait, 0.05)
    second.go.set()
    first.go.set()
    assert await staying == "done"
    assert leaving.cancelled()


async def test_work_whose_caller_left_before_its_turn_never_begins() -> None:
    threads, first, second = Threads(1), Work(), Work()
    staying = asyncio.create_task(threads.run(first))
    assert await asyncio.to_thread(first.begun.wait, 5)
    leaving = asyncio.create_task(threads.run(second))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})
    first.go.set()
    assert await staying == "done"
    assert await threads.run(str, "next") == "next"
    assert not second.begun.is_set()
