"""Answers under way that are shared among workers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import ContextTooLong, Interrupted
from gateway.cache.bus import Bus
from gateway.cache.messages import Beat, Join, Pieces
from gateway.cache.shelf import Standing
from tests.gateway.cache.workers import LOCK_KEY, STORAGE_KEY, Upstream, read, reading, workers
from tests.gateway.fake_book import Clock
from tests.gateway.state_server import RealServer
from tests.patience import within

pytestmark = pytest.mark.anyio


async def test_four_workers_of_fifty_requests_ask_the_upstream_once(server: RealServer) -> None:
    async with workers(server.url, 4) as all_of_them:
        upstreams = []
        for round_ in range(3):
            upstream = Upstream()
            upstreams.append(upstream)
            key = f"flight:{{{round_}}}"
            asking = [
                asyncio.ensure_future(worker.ask(upstream, key))
                for _ in range(50)
                for worker in all_of_them
            ]
            await upstream.asked.wait()
            upstream.say("a", b"b", {"c": [1]}, last=True)
            answers = await asyncio.gather(*asking)
            assert answers == [["a", b"b", {"c": [1]}]] * 200
        assert [upstream.makes for upstream in upstreams] == [1, 1, 1]


async def test_pieces_arrive_while_they_are_made(server: RealServer) -> None:
    async with workers(server.url, 2) as (one, other):
        upstream = Upstream()
        leading = await one.seat(upstream)
        following = await other.seat(upstream)
        await asyncio.gather(leading.open(), _said(upstream, "first"))
        pieces = following.pieces()
        assert (await anext(pieces)).content == "first"
        upstream.say("second")
        assert (await anext(pieces)).content == "second"
        upstream.say("third", last=True)
        assert [piece.content async for piece in pieces] == ["third"]
        assert await read(leading) == ["first", "second", "third"]
        await following.aclose()
        assert upstream.makes == 1


async def test_who_asks_after_the_end_finds_the_answer(server: RealServer) -> None:
    async with workers(server.url, 2) as (one, other):
        upstream = Upstream()
        upstream.say("a", last=True)
        assert await one.ask(upstream) == ["a"]
        assert await other.ask(Upstream()) == ["a"]
        assert await one.store.call("EXISTS", LOCK_KEY) == 0


async def test_an_unsound_answer_is_shared_but_not_kept(server: RealServer) -> None:
    async with workers(server.url, 2) as (one, other):
        upstream = Upstream()
        seats = [await one.seat(upstream), await other.seat(upstream)]
        tasks = [reading(seat) for seat in seats]
        upstream.say("unsound", last=True)
        assert await asyncio.gather(*tasks) == [["unsound"]] * 2
        assert await one.store.call("EXISTS", STORAGE_KEY) == 0


async def test_large_pieces_arrive_whole(server: RealServer) -> None:
    async with workers(server.url, 2) as (one, other):
        upstream = Upstream()
        said = [b"x" * 5_000_000, b"y", b"z" * 3_000_000]
        seats = [await one.seat(upstream), await other.seat(upstream)]
        tasks = [reading(seat) for seat in seats]
        upstream.say(*said, last=True)
        assert await asyncio.gather(*tasks) == [said] * 2
        assert upstream.makes == 1


async def test_the_leaders_error_is_everyones(server: RealServer) -> None:
    async with workers(server.url, 2) as (one, other):
        upstream = Upstream()
        seats = [await one.seat(upstream), await other.seat(upstream)]
        tasks = [reading(seat) for seat in seats]
        await one.bus.heard(Join)
        upstream.say(ContextTooLong("Too long.", status=422, param="prompt"))
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        for error in errors:
            assert isinstance(error, ContextTooLong)
            assert (error.message, error.status, error.param) == ("Too long.", 422, "prompt")
        assert await one.store.call("EXISTS", LOCK_KEY, STORAGE_KEY) == 0
        assert upstream.makes == 1


async def test_the_leaders_clients_leave_and_the_followers_go_on_and_pay(
    server: RealServer,
) -> None:
    async with workers(server.url, 2) as (one, other):
        upstream = Upstream()
        leading, following = await one.seat(upstream), await other.seat(upstream)
        assert (leading.is_free, following.is_free) == (False, True)
        upstream.say("a")
        await asyncio.gather(leading.open(), following.open())
        await leading.aclose()
        task = reading(following)
        upstream.say("b", last=True)
        assert await task == ["a", "b"]
        assert (leading.is_free, following.is_free) == (True, False)
        assert upstream.makes == 1


async def test_a_local_seat_pays_rather_than_another_worker(server: RealServer) -> None:
    async with workers(server.url, 2) as (one, other):
        upstream = Upstream()
        leading, following = await one.seat(upstream), await other.seat(upstream)
        upstream.say("a")
        await following.open()
        late = await one.seat(upstream)
        await leading.aclose()
        upstream.say("b", last=True)
        assert await asyncio.gather(read(late), read(following)) == [["a", "b"]] * 2
        assert (late.is_free, following.is_free) == (False, True)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
async def test_the_last_to_leave_ends_the_upstream_call(
    server: RealServer, order: tuple[int, ...]
) -> None:
    async with workers(server.url, 2, beat_seconds=60) as (one, other):
        upstream = Upstream()
        seats = [await one.seat(upstream), await one.seat(upstream), await other.seat(upstream)]
        upstream.say("a")
        await asyncio.gather(*(seat.open() for seat in seats))
        for index in order[:-1]:
            await seats[index].aclose()
        assert not upstream.closed.is_set()
        await seats[order[-1]].aclose()
        await upstream.closed.wait()
        assert await one.store.call("EXISTS", STORAGE_KEY) == 0
        assert upstream.makes == 1


async def test_a_follower_outlives_a_leader_that_shuts_down_before_its_first_piece(
    server: RealServer,
) -> None:
    async with workers(server.url, 1) as (other,):
        upstream = Upstream()
        async with workers(server.url, 1) as (one,):
            leading, following = await one.seat(upstream), await other.seat(upstream)
            tasks = [reading(leading), reading(following)]
            await one.bus.heard(Join)
        with pytest.raises(Interrupted):
            await tasks[0]
        upstream.say("a", last=True)
        assert await tasks[1] == ["a"]
        assert upstream.makes == 2
        assert not following.is_free


async def test_a_follower_with_pieces_is_interrupted_when_its_leader_shuts_down(
    server: RealServer,
) -> None:
    async with workers(server.url, 1) as (other,):
        upstream = Upstream()
        async with workers(server.url, 1) as (one,):
            leading, following = await one.seat(upstream), await other.seat(upstream)
            upstream.say("a")
            await asyncio.gather(leading.open(), following.open())
        with pytest.raises(Interrupted):
            await read(following)
        assert upstream.makes == 1


async def test_of_several_followers_one_replaces_the_leader(server: RealServer) -> None:
    async with workers(server.url, 3) as others:
        upstream = Upstream()
        async with workers(server.url, 1) as (one,):
            seats = [await worker.seat(upstream) for worker in (one, *others)]
            tasks = [reading(seat) for seat in seats]
            await one.bus.heard(Join, 3)
        upstream.say("a", last=True)
        assert await asyncio.gather(*tasks[1:]) == [["a"]] * 3
        assert upstream.makes == 2
        assert sorted(seat.is_free for seat in seats[1:]) == [False, True, True]
        with pytest.raises(Interrupted):
            await tasks[0]


async def test_a_silent_leader_is_replaced(server: RealServer) -> None:
    async with workers(server.url, 1, silence_seconds=0.3) as (other,):
        deaf = Bus(other.store, worker_id="0123456789abcdef")
        deaf.open(lambda _: None, on_down=lambda: None)
        await deaf.wait_until_up()
        await other.store.call("SET", LOCK_KEY, f"{deaf.worker_id}:1")
        upstream = Upstream()
        upstream.say("a", last=True)
        assert await other.ask(upstream) == ["a"]
        await deaf.aclose()


async def test_a_quiet_leader_is_not_taken_for_a_dead_one(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("gateway.cache.remote.time", SimpleNamespace(monotonic=clock))
    async with workers(server.url, 2, beat_seconds=0.05, silence_seconds=0.2) as (one, other):
        upstream = Upstream()
        tasks = [reading(await worker.seat(upstream)) for worker in (one, other)]
        for beats in range(1, 13):  # in that time it looks three times
            await other.bus.heard(Beat, beats)
            clock.seconds += 0.15
        upstream.say("a", last=True)
        assert await asyncio.gather(*tasks) == [["a"]] * 2
        assert upstream.makes == 1


async def test_a_lock_that_leads_nowhere_is_taken_over_at_once(server: RealServer) -> None:
    async with workers(server.url, 1) as (one,):
        upstream = Upstream()
        upstream.say("a", last=True)
        for holder in (f"{one.bus.worker_id}:999", "0123456789abcdef:1", "nonsense", b"\xff\x00"):
            await one.store.call("DEL", STORAGE_KEY)
            await one.store.call("SET", LOCK_KEY, holder)
            async with within(1):
                assert await one.ask(upstream) == ["a"]
            assert await one.store.call("EXISTS", LOCK_KEY) == 0


async def _said(upstream: Upstream, *said: str) -> None:
    upstream.say(*said)


async def test_a_follower_asks_again_for_what_it_has_missed(server: RealServer) -> None:
    async with workers(server.url, 2) as (one, other):
        upstream = Upstream()
        leading, following = await one.seat(upstream), await other.seat(upstream)
        tasks = [reading(leading), reading(following)]
        upstream.say("a")
        await other.bus.heard(Pieces)
        other.bus.loses = Pieces
        upstream.say("b")
        while not other.bus.lost:
            await one.store.call("PING")
        upstream.say("c", last=True)
        assert await asyncio.gather(*tasks) == [["a", "b", "c"]] * 2
        assert upstream.makes == 1


async def test_who_joins_before_the_leader_knows_that_it_leads_is_kept_waiting(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workers(server.url, 2) as (one, other):
        look = one.shelf.look

        async def late(*args: Any, **options: Any) -> Standing:
            standing = await look(*args, **options)
            await one.bus.heard(Join)
            return standing

        monkeypatch.setattr(one.shelf, "look", late)
        upstream = Upstream()
        upstream.say("a", last=True)
        asking = asyncio.ensure_future(one.ask(upstream))
        while not await other.store.call("EXISTS", LOCK_KEY):
            pass
        assert await asyncio.gather(asking, other.ask(upstream)) == [["a"]] * 2
        assert upstream.makes == 1
