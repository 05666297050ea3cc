"""When a model is expected, by estimates that may never shrink."""

from __future__ import annotations

import pytest

from gateway.upstreams.outlook import Outlook
from tests.gateway.fake_book import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outlook(clock: Clock) -> Outlook:
    return Outlook(clock)


def test_an_estimate_that_is_told_again_counts_from_the_first_time(outlook, clock):
    left = []
    for _ in range(4):
        outlook.hear(20)
        left.append(outlook.retry_after_seconds)
        clock.seconds += 5
    assert left == [20, 15, 10, 5]


def test_another_estimate_is_believed(outlook, clock):
    outlook.hear(20)
    clock.seconds += 10
    outlook.hear(300)
    assert outlook.retry_after_seconds == 300
    clock.seconds += 10
    outlook.hear(30)
    assert outlook.retry_after_seconds == 30


def test_once_the_estimate_has_run_out_the_next_question_is_told(outlook, clock):
    outlook.hear(20)
    clock.seconds += 21
    outlook.hear(20)
    assert outlook.retry_after_seconds == 5
    clock.seconds += 2
    assert outlook.retry_after_seconds == 3


@pytest.mark.parametrize("hours", range(3))
def test_it_is_never_zero_nor_less(outlook, clock, hours):
    outlook.hear(0)
    clock.seconds += 3600 * hours
    assert outlook.retry_after_seconds > 0


def test_questions_come_when_the_model_is_expected_but_five_seconds_apart_at_most(outlook, clock):
    asked = []
    while clock.seconds < 1018:
        outlook.hear(12)
        asked.append(clock.seconds - 1000)
        clock.seconds += outlook.pause_seconds
    assert asked == [0, 5, 10, 12, 17]


def test_what_loads_again_after_a_long_silence_is_loading_anew(outlook, clock):
    outlook.hear(20)
    clock.seconds += 81
    outlook.hear(20)
    assert outlook.retry_after_seconds == 20


def test_a_model_that_was_loaded_meanwhile_is_loading_anew(outlook, clock):
    outlook.hear(20)
    clock.seconds += 10
    outlook.forget()
    outlook.hear(20)
    assert outlook.retry_after_seconds == 20


def test_what_another_worker_heard_before_counts(outlook, clock):
    outlook.hear(20)
    outlook.adopt(20, 7)
    assert outlook.retry_after_seconds == 7
