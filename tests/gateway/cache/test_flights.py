"""Answers under way that are shared within one worker."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from adapters.errors import Interrupted, Overloaded
from gateway.cache import flight
from gateway.cache.flight import Seat
from gateway.cache.shelf import Found
from gateway.errors import BadRequest
from tests.gateway.cache.workers import (
    LOCK_KEY,
    STORAGE_KEY,
    Upstream,
    Worker,
    contents,
    load,
    read,
    reading,
    worker,
)
from tests.gateway.state_server import RealServer
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def one(server: RealServer) -> AsyncIterator[Worker]:
    async with worker(server.url) as it:
        yield it


async def test_identical_requests_share_one_upstream_call(one: Worker) -> None:
    upstream = Upstream()
    asking = [asyncio.ensure_future(one.ask(upstream)) for _ in range(50)]
    await upstream.asked.wait()
    upstream.say("a", "b", last=True)
    assert await asyncio.gather(*asking) == [["a", "b"]] * 50
    assert upstream.makes == 1


async def test_other_answers_are_made_beside_it(one: Worker) -> None:
    first, second = Upstream(), Upstream()
    first.say("a", last=True)
    second.say("b", last=True)
    asking = (one.ask(first, "flight:{1}"), one.ask(second, "flight:{2}"))
    assert await asyncio.gather(*asking) == [["a"], ["b"]]


async def test_who_joins_late_gets_all_pieces(one: Worker) -> None:
    upstream = Upstream()
    first = await one.seat(upstream)
    upstream.say("a", "b")
    await first.open()
    late = await one.seat(upstream)
    upstream.say("c", last=True)
    assert await asyncio.gather(read(late), read(first)) == [["a", "b", "c"]] * 2


async def test_a_slow_reader_does_not_hold_up_the_others(one: Worker) -> None:
    upstream = Upstream()
    slow, fast = await one.seat(upstream), await one.seat(upstream)
    upstream.say("a", "b", "c", last=True)
    async with aclosing(slow.pieces()) as pieces:
        assert (await anext(pieces)).content == "a"
        assert await read(fast) == ["a", "b", "c"]
        assert [piece.content async for piece in pieces] == ["b", "c"]
    await slow.aclose()


async def test_pieces_are_handed_out_as_they_come(one: Worker) -> None:
    upstream = Upstream()
    seat = await one.seat(upstream)
    async with aclosing(seat.pieces()) as pieces:
        for content in "abc":
            upstream.say(content)
            assert (await anext(pieces)).content == content
    await seat.aclose()


async def test_the_answer_is_kept_before_its_end_is_seen(one: Worker) -> None:
    upstream = Upstream()
    upstream.say("a", "b", last=True)
    seat = await one.seat(upstream)
    async for piece in seat.pieces():
        if piece.is_last:
            found = await one.flights.enter(one.wanted(Upstream()))
            assert isinstance(found, Found)
            assert contents(await load(found.value) or []) == ["a", "b"]
    await seat.aclose()


async def test_keeping_that_takes_long_holds_nobody_up_and_is_joined_meanwhile(
    one: Worker,
) -> None:
    upstream, go_on = Upstream(), asyncio.Event()
    wanted = one.wanted(upstream)

    async def keep(pieces: object, token: str) -> None:
        await go_on.wait()

    seat = await one.flights.enter(replace(wanted, keep=keep))
    assert isinstance(seat, Seat)
    upstream.say("a", last=True)
    assert await read(seat) == ["a"]
    assert await one.ask(upstream) == ["a"]
    assert upstream.makes == 1
    assert await one.store.call("EXISTS", LOCK_KEY) == 1
    go_on.set()
    while await one.store.call("EXISTS", LOCK_KEY):
        pass


async def test_an_error_is_everyones_and_nothing_is_kept(one: Worker) -> None:
    upstream = Upstream()
    seats = [await one.seat(upstream) for _ in range(3)]
    tasks = [reading(seat) for seat in seats]
    upstream.say("a", Overloaded("Busy.", retry_after_seconds=3))
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    for error in errors:
        assert isinstance(error, Overloaded)
        assert error.retry_after_seconds == 3
    assert len(set(map(id, errors))) == 3
    assert await one.store.call("EXISTS", LOCK_KEY, STORAGE_KEY) == 0


async def test_after_an_error_the_next_request_begins_anew(one: Worker) -> None:
    upstream = Upstream()
    upstream.say(BadRequest("No."))
    with pytest.raises(BadRequest):
        await one.ask(upstream)
    again = Upstream()
    again.say("a", last=True)
    assert await one.ask(again) == ["a"]


async def test_an_answer_that_only_stops_is_interrupted(one: Worker) -> None:
    class Short(Upstream):
        async def make(self):  # type: ignore[no-untyped-def]
            async for piece in super().make():
                yield piece
                return

    upstream = Short()
    upstream.say("a")
    with pytest.raises(Interrupted):
        await one.ask(upstream)
    assert await one.store.call("EXISTS", LOCK_KEY, STORAGE_KEY) == 0


async def test_a_fault_of_ours_is_logged_and_leaves_nobody_waiting(
    one: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = Upstream()
    upstream.say(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await one.ask(upstream)
    assert "an answer under way failed" in caplog.text
    assert await one.store.call("EXISTS", LOCK_KEY) == 0


async def test_an_answer_without_bounds_is_interrupted(
    one: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Upstream()
    upstream.say(*[b"x" * 1_000_000] * (flight.LIMIT_BYTES // 1_000_000 + 1), last=True)
    seat = await one.seat(upstream)
    with pytest.raises(Interrupted, match="too large"):
        await read(seat)
    assert upstream.closed.is_set()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
async def test_only_the_last_to_leave_ends_the_upstream_call(
    one: Worker, order: tuple[int, ...]
) -> None:
    upstream = Upstream()
    seats = [await one.seat(upstream) for _ in order]
    upstream.say("a")
    await asyncio.gather(*(seat.open() for seat in seats))
    for index in order[:-1]:
        await seats[index].aclose()
        assert not upstream.closed.is_set()
    await seats[order[-1]].aclose()
    assert upstream.closed.is_set()
    assert await one.store.call("EXISTS", LOCK_KEY, STORAGE_KEY) == 0


async def test_who_comes_after_the_last_has_left_begins_anew(one: Worker) -> None:
    upstream = Upstream()
    seat = await one.seat(upstream)
    upstream.say("a")
    await seat.open()
    leaving = asyncio.ensure_future(seat.aclose())
    upstream.say("b", last=True)
    assert await one.ask(upstream) == ["a", "b"]
    await leaving


async def test_a_seat_may_be_closed_twice(one: Worker) -> None:
    upstream = Upstream()
    seats = [await one.seat(upstream), await one.seat(upstream)]
    await seats[0].aclose()
    await seats[0].aclose()
    upstream.say("a", last=True)
    assert await read(seats[1]) == ["a"]


async def test_a_seat_closed_unopened_asks_nobody_and_frees_the_lock(one: Worker) -> None:
    upstream = Upstream()
    seat = await one.seat(upstream)
    assert await one.store.call("EXISTS", LOCK_KEY) == 1
    await seat.aclose()
    assert await one.store.call("EXISTS", LOCK_KEY) == 0
    assert upstream.makes == 0


async def test_the_flight_goes_on_when_its_leader_is_refused(one: Worker) -> None:
    upstream = Upstream()
    refused, other = await one.seat(upstream), await one.seat(upstream)
    await refused.aclose()
    upstream.say("a", last=True)
    assert await read(other) == ["a"]
    assert not other.is_free


async def test_what_nobody_waits_for_is_out_of_memory_at_once(one: Worker) -> None:
    upstream = Upstream()
    seat = await one.seat(upstream)
    flight = weakref.ref(seat._flight)
    upstream.say("a")
    gc.disable()
    try:
        await seat.open()
        await seat.aclose()
        await upstream.closed.wait()
        del seat
        async with asyncio.timeout(PATIENCE_SECONDS):
            while flight():  # noqa: ASYNC110 (callbacks of the loop still know it)
                await asyncio.sleep(0)
    finally:
        gc.enable()


async def test_one_seat_pays_and_the_next_if_it_leaves(one: Worker) -> None:
    upstream = Upstream()
    seats = [await one.seat(upstream) for _ in range(3)]
    assert [seat.is_free for seat in seats] == [False, True, True]
    await seats[1].aclose()
    assert [seat.is_free for seat in seats] == [False, True, True]
    await seats[0].aclose()
    assert [seat.is_free for seat in seats] == [True, True, False]
    upstream.say("a", last=True)
    assert await read(seats[2]) == ["a"]
    assert [seat.is_free for seat in seats] == [True, True, False]


async def test_who_pays_and_leaves_as_the_last_still_pays(one: Worker) -> None:
    upstream = Upstream()
    seat = await one.seat(upstream)
    upstream.say("a")
    await seat.open()
    await seat.aclose()
    assert not seat.is_free


async def test_what_is_kept_is_made_anew_if_that_is_wished(one: Worker) -> None:
    upstream = Upstream()
    upstream.say("a", last=True)
    await one.ask(upstream)
    seat = await one.flights.enter(one.wanted(upstream), anew=True)
    assert isinstance(seat, Seat)
    assert await read(seat) == ["a"]
    assert upstream.makes == 2


async def test_shutting_down_interrupts_and_frees_all_locks(server: RealServer) -> None:
    upstream = Upstream()
    async with worker(server.url) as other:
        async with worker(server.url) as one:
            opened, unopened = await one.seat(upstream, "flight:{1}"), await one.seat(upstream)
            upstream.say("a")
            await opened.open()
            assert await other.store.call("EXISTS", "flight:{1}", LOCK_KEY) == 2
        assert upstream.closed.is_set()
        for seat in (opened, unopened):
            with pytest.raises(Interrupted):
                await read(seat)
        assert await other.store.call("EXISTS", "flight:{1}", LOCK_KEY) == 0


async def test_a_request_that_is_cancelled_while_it_looks_leaves_no_lock(one: Worker) -> None:
    entering = asyncio.ensure_future(one.flights.enter(one.wanted(Upstream())))
    await asyncio.sleep(0)
    entering.cancel()
    await asyncio.wait([entering])
    assert await one.store.call("EXISTS", LOCK_KEY) == 0


async def test_the_lock_is_renewed_while_the_answer_is_made(server: RealServer) -> None:
    async with worker(server.url, beat_seconds=0.02) as one:
        upstream = Upstream()
        task = reading(await one.seat(upstream))
        await one.store.call("DEL", LOCK_KEY)
        while not await one.store.call("EXISTS", LOCK_KEY):
            pass
        upstream.say("a", last=True)
        assert await task == ["a"]
