import math

from gateway.departure import Departure


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def departure(clock: Clock) -> Departure:
    return Departure(drain_seconds=30, retire_seconds=3600, clock=clock)


def test_there_is_no_end_before_it_is_told() -> None:
    told = departure(Clock())

    assert told.seconds_left == math.inf
    assert not told.is_draining


def test_second_call_gives_no_more_time() -> None:
    clock = Clock()
    told = departure(clock)
    told.drain()
    clock.now += 20
    told.drain()
    told.retire()

    assert told.seconds_left == 10
    assert told.is_draining


def test_drain_shortens_what_retires() -> None:
    told = departure(Clock())
    told.retire()
    assert (told.seconds_left, told.is_draining) == (3600, False)

    told.drain()

    assert (told.seconds_left, told.is_draining) == (30, True)


def test_drain_gives_what_retires_no_more_than_it_had() -> None:
    clock = Clock()
    told = departure(clock)
    told.retire()
    clock.now += 3595

    told.drain()

    assert told.seconds_left == 5
