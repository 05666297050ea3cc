"""What is said again and again is said five times in ten seconds, then how often."""

from __future__ import annotations

import logging
import queue

import pytest

from gateway.logs.repetition import Held, Repetition
from tests.patience import PATIENCE_SECONDS


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def told():
    return queue.SimpleQueue()


@pytest.fixture
def repetition(clock, told):
    repetition = Repetition(lambda held: told.put((held.template, held.count)), clock=clock)
    yield repetition
    repetition.close()


def record(template="it is %s", *, name="gateway.store", line=1, level=logging.WARNING, args=()):
    return logging.LogRecord(name, level, "file.py", line, template, args, None)


def test_five_are_said(repetition):
    assert [repetition.admits(record()) for _ in range(7)] == [True] * 5 + [False] * 2


def test_different_arguments_are_the_same(repetition):
    assert sum(repetition.admits(record(args=(number,))) for number in range(100)) == 5


@pytest.mark.parametrize("other", [{"template": "x"}, {"name": "x"}, {"line": 2}])
def test_other_places_are_not(repetition, other):
    for _ in range(10):
        repetition.admits(record())
    assert repetition.admits(record(**other))


def test_it_is_said_again_after_ten_seconds_and_how_often_it_was_not(repetition, clock, told):
    for _ in range(25):
        repetition.admits(record())
    clock.seconds = 9.9
    assert not repetition.admits(record())
    assert told.empty()
    clock.seconds = 10
    assert repetition.admits(record())
    assert told.get_nowait() == ("it is %s", 21)
    assert told.empty()


def test_it_is_told_how_often_though_nothing_more_comes(told):
    def tell(held: Held) -> None:
        told.put(held.count)

    repetition = Repetition(tell, window_seconds=0.01)
    for _ in range(5):
        repetition.admits(record())
    while repetition.admits(record()):  # a slow machine may be in the next window already
        pass
    assert told.get(timeout=PATIENCE_SECONDS) >= 1


def test_at_the_end_it_is_told_what_was_held_back(repetition, told):
    for _ in range(8):
        repetition.admits(record())
    repetition.close()
    assert told.get_nowait() == ("it is %s", 3)


def test_what_may_be_all_that_is_left_is_always_said(repetition):
    assert all(repetition.admits(record(level=logging.CRITICAL)) for _ in range(100))


def test_only_so_many_places_are_remembered(repetition, told):
    for _ in range(6):
        repetition.admits(record())
    for line in range(2, 514):
        repetition.admits(record(line=line))
    assert told.get_nowait() == ("it is %s", 1)
    assert repetition.admits(record())
