from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.errors import Unauthenticated
from gateway.throttle import Throttle, TooManyFailures, network_of
from tests.gateway.fake_book import Clock

pytestmark = pytest.mark.anyio

HERE, THERE = "192.0.2.1", "192.0.2.2"


class Door:
    """A door with a throttle, which notes how long it sleeps.

    Sleep is over at once, or at `wake` if the door waits for a `crowd`; `crowded` tells of it.
    """

    def __init__(self, *, crowd: int = 0, most_addresses: int = 10_000) -> None:
        self.clock = Clock()
        self.slept: list[float] = []
        self.wake = asyncio.Event()
        self.crowded = asyncio.Event()
        self.tried = 0
        self._crowd = crowd
        if not crowd:
            self.wake.set()
        self.throttle = Throttle(most_addresses=most_addresses, clock=self.clock, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == self._crowd:
            self.crowded.set()
        await self.wake.wait()

    async def knock(self, address: str = HERE, *, is_known: bool = False) -> str:
        """Return what came of one attempt."""
        try:
            async with self.throttle.attempt(address):
                self.tried += 1
                await asyncio.sleep(0)  # a look-up takes its time
                if not is_known:
                    raise Unauthenticated("who?")
        except Unauthenticated:
            return "refused"
        except TooManyFailures as error:
            return f"retry after {error.retry_after_seconds}"
        return "in"

    async def fail(self, times: int, *, address: str = HERE) -> None:
        for _ in range(times):
            assert await self.knock(address) == "refused"

    async def is_slowed(self, address: str = HERE) -> bool:
        """Tell whether one more attempt is delayed."""
        before = len(self.slept)
        assert await self.knock(address, is_known=True) == "in"
        return len(self.slept) > before


def counts(answers: Sequence[str]) -> dict[str, int]:
    return {answer: answers.count(answer) for answer in sorted(set(answers))}


async def test_twenty_failures_are_free_and_more_of_them_cost_up_to_a_second() -> None:
    door = Door()
    await door.fail(20)
    assert door.slept == []

    await door.fail(6)

    assert door.slept == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


async def test_five_failures_a_second_are_forgiven() -> None:
    door = Door()
    await door.fail(20)
    assert await door.is_slowed()

    door.clock.seconds += 1.0
    await door.fail(5)
    assert door.slept == pytest.approx([0.2])
    assert await door.is_slowed()


async def test_after_the_worst_flood_an_address_is_as_good_as_new_in_eleven_seconds() -> None:
    door = Door()
    await door.fail(200)

    door.clock.seconds += 11
    door.slept.clear()
    await door.fail(20)

    assert door.slept == []


async def test_success_never_counts() -> None:
    door = Door()

    assert {await door.knock(is_known=True) for _ in range(100)} == {"in"}

    assert door.slept == []


async def test_a_thousand_good_keys_that_come_at_once_are_all_let_in_without_delay() -> None:
    door = Door()

    answers = await asyncio.gather(*(door.knock(is_known=True) for _ in range(1_000)))

    assert counts(answers) == {"in": 1_000}
    assert door.slept == []


async def test_a_flood_from_one_address_is_turned_away_after_a_bounded_number_of_attempts() -> None:
    door = Door(crowd=32)
    flood = [asyncio.create_task(door.knock()) for _ in range(10_000)]
    await door.crowded.wait()

    assert (await door.knock(), await door.knock(THERE)) == ("retry after 1", "refused")
    assert not await door.is_slowed(THERE)
    door.wake.set()
    answers = await asyncio.gather(*flood)

    assert max(door.slept) == 1.0
    # Free are 20, of which the last may be tried beside 7 others; 32 more are delayed.
    assert counts(answers)["refused"] <= 20 + 7 + 32
    assert counts(answers) == {
        "refused": door.tried - 2,
        "retry after 1": 10_000 - (door.tried - 2),
    }


async def test_a_good_key_in_a_flood_is_delayed_and_let_in() -> None:
    door = Door(crowd=32)
    await door.fail(20)
    flood = [asyncio.create_task(door.knock()) for _ in range(31)]
    good = asyncio.create_task(door.knock(is_known=True))
    await door.crowded.wait()

    door.wake.set()

    assert await good == "in"
    assert counts(await asyncio.gather(*flood)) == {"refused": 31}


async def test_those_who_give_up_waiting_make_room_for_others() -> None:
    door = Door(crowd=32)
    await door.fail(20)
    flood = [asyncio.create_task(door.knock()) for _ in range(32)]
    await door.crowded.wait()
    assert await door.knock() == "retry after 1"

    for waiting in flood:
        waiting.cancel()
    await asyncio.wait(flood)
    door.wake.set()

    assert await door.knock() == "refused"


async def test_the_delayed_are_bounded_in_all_and_those_who_did_not_fail_are_not_concerned() -> (
    None
):
    door = Door(crowd=32 * 32)
    addresses = [f"192.0.2.{number}" for number in range(32)]
    for address in [*addresses, "198.51.100.1"]:
        await door.fail(20, address=address)
    flood = [asyncio.create_task(door.knock(one)) for one in addresses for _ in range(32)]
    await door.crowded.wait()

    assert await door.knock("198.51.100.1") == "retry after 1"
    assert await door.knock("198.51.100.2") == "refused"

    door.wake.set()
    assert counts(await asyncio.gather(*flood)) == {"refused": 32 * 32}
    assert await door.knock("198.51.100.1") == "refused"


async def test_the_addresses_that_are_remembered_are_bounded() -> None:
    door = Door(most_addresses=2)
    await door.fail(20)
    await door.knock(THERE)
    assert await door.is_slowed()
    await door.knock("192.0.2.3")
    assert await door.is_slowed()

    await door.knock("192.0.2.4")
    await door.knock("192.0.2.5")

    assert not await door.is_slowed()


@pytest.mark.parametrize(
    ("address", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:0:0:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "testclient", False),
        ("x" * 64 + "1", "x" * 64 + "2", True),
    ],
)
def test_an_address_stands_for_its_network(address: str, other: str, is_same: bool) -> None:
    assert (network_of(address) == network_of(other)) is is_same
