"""Clients that come back too early are held until the time that they were told."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.errors import GatewayError, UpstreamFailed
from gateway.waiting_room import WaitingRoom
from tests.gateway.fake_book import Clock
from tests.patience import Stopwatch

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> Clock:
    return Clock()


def loading(seconds: int) -> GatewayError:
    return UpstreamFailed("loading", status=503, headers={"retry-after": str(seconds)})


async def turned_away(room: WaitingRoom, seconds: int, key: str = "k") -> None:
    """Let a key be told to stay away, and come back once, which is no haste yet."""
    room.note(key, "m", loading(seconds))
    assert await held_seconds(room, key) < 0.05


async def held_seconds(room: WaitingRoom, key: str = "k", model: str = "m") -> float:
    """Return for how long a client was held, the machine's own hold-ups left out."""
    async with Stopwatch() as watch:
        await room.enter(key, model)
    return watch.seconds


async def wall_seconds(room: WaitingRoom, key: str = "k") -> float:
    """Return for how long a client was held, whatever else held it up."""
    began = time.monotonic()
    await room.enter(key, "m")
    return time.monotonic() - began


async def test_who_was_never_turned_away_enters_at_once(clock: Clock) -> None:
    room = WaitingRoom(clock=clock)
    assert await held_seconds(room) < 0.05
    await turned_away(room, 20)
    assert await held_seconds(room, "other") < 0.05
    assert await held_seconds(room, "k", "other") < 0.05


async def test_who_comes_too_early_is_held_until_the_time_it_was_told(clock: Clock) -> None:
    room = WaitingRoom(clock=clock)
    await turned_away(room, 20)
    clock.seconds += 19.7
    async with Stopwatch() as watch:
        assert await wall_seconds(room) > 0.25
    assert watch.seconds < 1
    clock.seconds += 0.4
    assert await held_seconds(room) < 0.05


async def test_nobody_is_held_longer_than_is_bearable(clock: Clock) -> None:
    room = WaitingRoom(longest_seconds=0.2, clock=clock)
    await turned_away(room, 300)
    async with Stopwatch() as watch:
        assert await wall_seconds(room) > 0.15
    assert watch.seconds < 1


async def test_of_one_key_so_many_are_held_and_no_more(clock: Clock) -> None:
    room = WaitingRoom(most_held=2, clock=clock)
    await turned_away(room, 5)
    held = [asyncio.ensure_future(room.enter("k", "m")) for _ in range(2)]
    await asyncio.sleep(0)
    assert await held_seconds(room) < 0.05
    held[0].cancel()
    await asyncio.wait(held[:1])
    third = asyncio.ensure_future(room.enter("k", "m"))
    await asyncio.sleep(0)
    assert not third.done()
    for task in (*held, third):
        task.cancel()


async def test_an_answer_ends_it(clock: Clock) -> None:
    room = WaitingRoom(clock=clock)
    await turned_away(room, 20)
    room.note("k", "m", None)
    assert await held_seconds(room) < 0.05


@pytest.mark.parametrize(
    "error",
    [
        UpstreamFailed("x", status=429, headers={"retry-after": "20"}),
        UpstreamFailed("x", status=503),
        UpstreamFailed("x", status=404),
        GatewayError("x", status=503, headers={"retry-after": "20"}),
    ],
)
async def test_only_an_upstreams_503_that_says_when_to_come_is_remembered(
    clock: Clock, error: GatewayError
) -> None:
    room = WaitingRoom(clock=clock)
    room.note("k", "m", error)
    await room.enter("k", "m")
    assert await held_seconds(room) < 0.05


async def test_those_turned_away_longest_ago_are_forgotten_first(clock: Clock) -> None:
    room = WaitingRoom(most_known=2, longest_seconds=0.2, clock=clock)
    await turned_away(room, 20, "a")
    await turned_away(room, 20, "b")
    room.note("a", "m", loading(20))
    await turned_away(room, 20, "c")
    assert await held_seconds(room, "b") < 0.05
    assert await wall_seconds(room, "a") > 0.15
    assert await wall_seconds(room, "c") > 0.15
