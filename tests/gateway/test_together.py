"""Several things at once: all, or an error and nothing left under way."""

from __future__ import annotations

import asyncio

import pytest

from gateway.together import all_of

pytestmark = pytest.mark.anyio


class Fault(Exception):
    """What a step ends with."""


async def fail() -> None:
    raise Fault


@pytest.mark.parametrize("count", [1, 3])
async def test_all_steps_are_taken_at_once(count: int):
    barrier = asyncio.Barrier(count)

    async def step() -> None:
        await barrier.wait()

    await all_of([step() for _ in range(count)])


async def test_a_step_that_fails_ends_the_others_first():
    ended = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(Fault):
        await all_of([hang(), fail(), hang()])
    assert ended == [True, True]


async def test_a_caller_that_is_cancelled_ends_all_steps_first():
    begun, ended = asyncio.Barrier(3), []

    async def hang() -> None:
        try:
            await begun.wait()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    caller = asyncio.create_task(all_of([hang(), hang()]))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended == [True, True]


@pytest.mark.parametrize("count", [1, 2])
async def test_a_caller_whose_steps_failed_is_not_taken_for_cancelled(count: int):
    """Else none of its later timeouts would be told from that."""
    with pytest.raises(Fault):
        await all_of([fail() for _ in range(count)])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
