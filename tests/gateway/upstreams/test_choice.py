from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest

from adapters.base import Task
from adapters.errors import Failed, ModelLoading, ModelMissing
from gateway.config import Settings
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.choice import choose, least_unfit, less_busy
from gateway.upstreams.coldstart import ColdStart
from gateway.upstreams.health import Health
from gateway.upstreams.retry_budget import RetryBudget
from gateway.upstreams.target import Target
from tests.gateway.fake_book import Clock


def targets(*options: dict[str, Any]) -> tuple[Target, ...]:
    """Return targets at upstreams of their own."""
    names = [f"u{number}" for number in range(len(options))]
    settings = Settings.model_validate(
        {
            "upstreams": [
                {"name": name, "dialect": "hf", "base_url": f"http://127.0.0.1:9/{name}"}
                for name in names
            ],
            "models": [
                {
                    "id": "m",
                    "targets": [
                        {"upstream": name} | option
                        for name, option in zip(names, options, strict=True)
                    ],
                }
            ],
        }
    )
    [model] = Catalog(settings, httpx.MockTransport(lambda _: httpx.Response(200))).models
    for target in model.targets:
        target.health = Health(clock=Clock())  # who rests does so to the end
    return model.targets


def exhaust(target: Target) -> None:
    for _ in range(3):
        target.note(Task.CHAT, Failed("oops", status=500))


def share(ts: tuple[Target, ...], target: Target) -> float:
    return Counter(id(choose(ts, Task.CHAT)) for _ in range(2000))[id(target)] / 2000


def test_idle_targets_are_taken_by_weight() -> None:
    ts = targets({"weight": 3}, {"weight": 1})
    assert share(ts, ts[0]) == pytest.approx(0.75, abs=0.06)


def test_of_two_the_less_busy_is_taken() -> None:
    ts = targets({}, {})
    ts[0].outstanding = 1
    assert {id(less_busy(ts)) for _ in range(50)} == {id(ts[1])}


def test_a_heavy_one_is_given_as_much_more() -> None:
    ts = targets({"weight": 4}, {"weight": 1})
    ts[0].outstanding, ts[1].outstanding = 3, 1
    assert less_busy(ts) is ts[0]
    ts[0].outstanding = 5
    assert less_busy(ts) is ts[1]


def test_of_many_two_are_drawn_so_that_not_all_run_to_the_idlest() -> None:
    ts = targets({}, {}, {}, {})
    for one in ts[1:]:
        one.outstanding = 1
    # It is in half of the pairs; a gateway of several workers must not flood it.
    assert share(ts, ts[0]) == pytest.approx(0.5, abs=0.06)


def test_a_later_priority_is_for_when_none_of_the_earlier_is_fit() -> None:
    ts = targets({"priority": 1}, {}, {})
    assert share(ts, ts[0]) == 0
    exhaust(ts[1])
    assert share(ts, ts[2]) == 1
    exhaust(ts[2])
    assert share(ts, ts[0]) == 1


async def load(target: Target, seconds: float) -> None:
    """Let the target say that it will have loaded in so many seconds."""

    async def refuse() -> None:
        raise ModelLoading("loading", status=503, retry_after_seconds=seconds)

    with pytest.raises(ModelLoading):
        await target.cold_start.when_loaded(refuse, wait_seconds=0)


@pytest.mark.anyio
async def test_one_that_loads_is_for_when_no_other_is_ready_whatever_its_priority() -> None:
    ts = targets({}, {"priority": 5})
    await load(ts[0], 20)
    assert share(ts, ts[1]) == 1
    exhaust(ts[1])
    assert share(ts, ts[0]) == 1


@pytest.mark.anyio
async def test_one_that_should_have_loaded_by_now_is_tried_again() -> None:
    ts = targets({}, {"priority": 5})
    clock = Clock()
    ts[0].cold_start = ColdStart(clock=clock)
    await load(ts[0], 20)
    clock.seconds += 19
    assert share(ts, ts[1]) == 1
    clock.seconds += 1
    assert share(ts, ts[0]) == 1


def test_one_without_the_model_is_passed_over_for_that_task_alone() -> None:
    ts = targets({}, {})
    ts[0].note(Task.CHAT, ModelMissing("none", status=404))
    assert share(ts, ts[0]) == 0
    assert ts[0] in {choose(ts, Task.EMBEDDING) for _ in range(50)}


def test_those_that_were_tried_are_not_tried_again() -> None:
    ts = targets({}, {})
    assert choose(ts, Task.CHAT, but=ts[:1]) is ts[1]
    assert choose(ts, Task.CHAT, but=ts) is None


def test_if_none_is_fit_one_is_tried_all_the_same() -> None:
    ts = targets({"priority": 1}, {})
    for one in ts:
        exhaust(one)
    assert choose(ts, Task.CHAT) is None
    assert least_unfit(ts) is ts[1]


def test_a_fifth_of_the_requests_may_be_tried_again_after_a_burst_of_a_hundred() -> None:
    budget = RetryBudget(0.2, clock=Clock())
    assert sum(budget.withdraw() for _ in range(1000)) == 100
    for _ in range(51):
        budget.deposit()
    assert sum(budget.withdraw() for _ in range(1000)) == 10


def test_a_quiet_model_earns_a_retry_a_second() -> None:
    clock = Clock()
    budget = RetryBudget(0.2, clock=clock)
    assert sum(budget.withdraw() for _ in range(1000)) == 100
    clock.seconds += 7
    assert sum(budget.withdraw() for _ in range(1000)) == 7


def test_no_share_is_no_retry() -> None:
    clock = Clock()
    budget = RetryBudget(0, clock=clock)
    clock.seconds += 1000
    budget.deposit()
    assert not budget.withdraw()
