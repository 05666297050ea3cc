from __future__ import annotations

import pytest

from adapters.errors import (
    Failed,
    HungUp,
    Interrupted,
    Misconfigured,
    ModelLoading,
    ModelMissing,
    OutOfCredits,
    Overloaded,
    Rejected,
    TimedOut,
    Unreachable,
    UpstreamError,
)
from gateway.upstreams.health import Health
from tests.gateway.fake_book import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock=clock, jitter=lambda low, high: 1.0)


def fail(health: Health, times: int, error: UpstreamError | None = None) -> None:
    for _ in range(times):
        health.begin()
        health.fail(error or Failed("oops", status=500))
        health.end()


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("gone"),
        TimedOut("slow"),
        HungUp("cut"),
        Interrupted("cut"),
        Failed("oops", status=500),
        Failed("oops", status=424),
        Failed("oops"),
        Overloaded("busy", status=503),
    ],
    ids=repr,
)
def test_three_failures_on_end_and_it_rests(health: Health, error: UpstreamError) -> None:
    fail(health, 2, error)
    assert health.may_be_asked
    fail(health, 1, error)
    assert (health.may_be_asked, health.is_resting) == (False, True)


def test_an_answer_between_failures_makes_it_well(health: Health) -> None:
    for _ in range(5):
        fail(health, 2)
        health.succeed()
    assert health.may_be_asked


@pytest.mark.parametrize(
    "error",
    [
        Rejected("bad", status=422),
        ModelLoading("cold", status=503),
        ModelMissing("none", status=404),
        Failed("odd", status=409),
    ],
    ids=repr,
)
def test_what_is_about_the_request_or_the_model_does_not_make_it_rest(
    health: Health, error: UpstreamError
) -> None:
    fail(health, 10, error)
    assert health.may_be_asked


@pytest.mark.parametrize("error", [OutOfCredits("empty"), Misconfigured("refused", status=401)])
def test_what_only_its_operator_can_mend_makes_it_rest_at_once(
    health: Health, error: UpstreamError
) -> None:
    fail(health, 1, error)
    assert not health.may_be_asked


def test_after_its_rest_one_request_tries_it_out(health: Health, clock: Clock) -> None:
    fail(health, 3)
    clock.seconds += 1.9
    assert not health.may_be_asked
    clock.seconds += 0.2
    assert health.may_be_asked

    health.begin()
    assert not health.may_be_asked

    health.succeed()
    health.end()
    assert (health.may_be_asked, health.is_resting) == (True, False)


def test_a_trial_that_came_to_nothing_leaves_room_for_another(health: Health, clock: Clock) -> None:
    fail(health, 3)
    clock.seconds += 2.1
    health.begin()
    health.end()  # its client left
    assert health.may_be_asked


def test_each_failed_trial_doubles_the_rest_up_to_a_minute(health: Health, clock: Clock) -> None:
    fail(health, 3)
    rests = []
    for _ in range(8):
        began = clock.seconds
        while not health.may_be_asked:
            clock.seconds += 0.5
        rests.append(clock.seconds - began)
        fail(health, 1)
    assert rests == [2, 4, 8, 16, 32, 60, 60, 60]


def test_requests_that_were_under_way_when_it_failed_do_not_prolong_its_rest(
    health: Health, clock: Clock
) -> None:
    fail(health, 100)
    clock.seconds += 2.1
    assert health.may_be_asked


def test_it_is_left_alone_for_as_long_as_it_asks(health: Health, clock: Clock) -> None:
    fail(health, 1, Overloaded("busy", status=429, retry_after_seconds=30))
    clock.seconds += 29
    assert (health.may_be_asked, health.is_resting) == (False, False)
    clock.seconds += 1.1
    assert health.may_be_asked


def test_but_not_for_longer_than_five_minutes(health: Health, clock: Clock) -> None:
    fail(health, 1, Overloaded("busy", status=429, retry_after_seconds=86_400))
    clock.seconds += 301
    assert health.may_be_asked


def test_rests_differ_so_that_not_all_come_back_at_once() -> None:
    lengths = set()
    for _ in range(20):
        clock = Clock()
        health = Health(clock=clock)
        fail(health, 3)
        began = clock.seconds
        while not health.may_be_asked:
            clock.seconds += 0.01
        lengths.add(round(clock.seconds - began, 2))
    assert len(lengths) > 5
    assert min(lengths) >= 1.6
    assert max(lengths) <= 2.41
