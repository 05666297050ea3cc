from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.upstreams.gate import Crowded, Gate
from tests.gateway.fake_book import Clock
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio


def gate(limit: int | None = 1, *, size: int = 100, seconds: float = PATIENCE_SECONDS) -> Gate:
    return Gate("hf", limit=limit, queue_size=size, queue_seconds=seconds)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def waiting(gate: Gate, *keys: str) -> list[asyncio.Task[Callable[[], None]]]:
    """Let a call come for each of `keys`; all that are not let in wait."""
    calls = [asyncio.create_task(gate.enter(key)) for key in keys]
    await settle()
    return calls


class Queue:
    """Calls that enter a gate, in the order in which their turns come."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.order: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def add(self, *names: str) -> None:
        """Let a call come for each of `names`, whose first letter is its sender's."""
        for name in names:
            self._tasks.append(asyncio.create_task(self._call(name)))
            await settle()

    async def _call(self, name: str) -> None:
        leave = await self.gate.enter(name[0])
        self.order.append(name)
        leave()

    async def end(self) -> list[str]:
        await asyncio.gather(*self._tasks)
        return self.order


async def test_without_a_limit_all_come_through_and_none_is_counted() -> None:
    free = gate(None)
    leave = [await free.enter("a") for _ in range(1000)]
    assert (free.under_way, free.waiting) == (0, 0)
    for one in leave:
        one()


async def test_at_most_as_many_as_allowed_are_through_at_once() -> None:
    narrow = gate(3)
    leave = [await narrow.enter("a") for _ in range(3)]
    [fourth] = await waiting(narrow, "a")
    assert (narrow.under_way, narrow.waiting, fourth.done()) == (3, 1, False)

    leave[0]()
    (await fourth)()
    for one in leave[1:]:
        one()
    assert (narrow.under_way, narrow.waiting) == (0, 0)


async def test_a_key_with_many_calls_does_not_keep_another_waiting() -> None:
    narrow = gate(1)
    hold = await narrow.enter("a")
    queue = Queue(narrow)
    await queue.add(*(f"a{number}" for number in range(50)), "b1", "b2", "c1")
    hold()
    order = await queue.end()
    assert order[:6] == ["a0", "b1", "c1", "a1", "b2", "a2"]
    assert len(order) == 53


async def test_next_is_whoever_has_the_fewest_under_way() -> None:
    narrow = gate(3)
    holds = [await narrow.enter("a") for _ in range(3)]
    turns: list[str] = []

    async def call(name: str) -> None:
        await narrow.enter(name)
        turns.append(name)

    calls = []
    for name in ("a", "a", "b", "b", "c"):
        calls.append(asyncio.create_task(call(name)))
        await settle()
    holds[0]()
    await settle()
    assert turns == ["b"]  # `a` has two under way
    holds[1]()
    await settle()
    assert turns == ["b", "c"]  # `a` and `b` have one each
    holds[2]()
    await settle()
    assert turns == ["b", "c", "a"]  # which has none now
    for one in calls:
        one.cancel()


async def test_while_others_ask_too_nobody_gets_all_places() -> None:
    clock = Clock()
    narrow = Gate("hf", limit=3, queue_seconds=PATIENCE_SECONDS, clock=clock)
    (await narrow.enter("b"))()
    holds = [await narrow.enter("a") for _ in range(2)]
    [third] = await waiting(narrow, "a")
    assert (narrow.under_way, third.done()) == (2, False)

    leave = await asyncio.wait_for(narrow.enter("b"), PATIENCE_SECONDS)
    leave()
    assert not third.done()

    clock.seconds += 1.1  # nobody else comes any more
    holds[0]()
    await settle()
    assert (narrow.under_way, third.done()) == (2, True)
    fourth = await narrow.enter("a")
    assert narrow.under_way == 3
    for one in (fourth, holds[1], third.result()):
        one()


async def test_whoever_waits_too_long_is_turned_away() -> None:
    narrow = gate(1, seconds=0.01)
    await narrow.enter("a")
    with pytest.raises(Crowded) as refused:
        await narrow.enter("b")
    assert (refused.value.status, refused.value.retry_after_seconds) == (503, 1)
    assert (narrow.under_way, narrow.waiting) == (1, 0)


async def test_a_full_queue_turns_away_the_newest_of_whoever_has_most_in_it() -> None:
    narrow = gate(1, size=3)
    hold = await narrow.enter("a")
    noisy = await waiting(narrow, "a", "a", "a")
    with pytest.raises(Crowded):
        await narrow.enter("a")

    [quiet] = await waiting(narrow, "b")
    with pytest.raises(Crowded):
        await noisy[2]
    hold()
    for one in (noisy[0], quiet, noisy[1]):
        (await one)()
    assert (narrow.under_way, narrow.waiting) == (0, 0)


async def test_whoever_leaves_the_queue_is_forgotten() -> None:
    narrow = gate(1)
    hold = await narrow.enter("a")
    [leaving] = await waiting(narrow, "b")
    leaving.cancel()
    await asyncio.wait([leaving])
    assert narrow.waiting == 0
    hold()
    assert narrow.under_way == 0


async def test_a_turn_that_comes_as_its_call_leaves_goes_to_the_next() -> None:
    narrow = gate(1)
    hold = await narrow.enter("a")
    leaving, patient = await waiting(narrow, "b", "c")
    hold()  # it is the turn of `b`, which has not run yet
    leaving.cancel()
    (await patient)()
    assert (narrow.under_way, narrow.waiting) == (0, 0)


async def test_a_call_that_has_just_left_is_passed_over() -> None:
    narrow = gate(1)
    hold = await narrow.enter("a")
    leaving, patient = await waiting(narrow, "b", "c")
    leaving.cancel()  # it has not run since
    hold()
    (await patient)()
    assert (narrow.under_way, narrow.waiting) == (0, 0)


async def test_a_full_queue_may_turn_away_who_has_just_left() -> None:
    narrow = gate(1, size=3)
    hold = await narrow.enter("a")
    noisy = await waiting(narrow, "a", "a", "a")
    quiet = asyncio.create_task(narrow.enter("b"))  # which runs before `noisy[2]` does again
    noisy[2].cancel()
    await settle()
    hold()
    for one in (noisy[0], quiet, noisy[1]):
        (await one)()
    assert noisy[2].cancelled()
    assert (narrow.under_way, narrow.waiting) == (0, 0)
