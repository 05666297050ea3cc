"""What workers admit while there is no state store, by a clock that tests turn."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import outage
from gateway.accounts import Account
from gateway.amounts import Amounts
from gateway.ledger import DAY_MS, month_of
from gateway.limits import NANO_USD, Limits
from gateway.outage import LocalQuotas
from gateway.quotas import QuotaExceeded, Snapshot, Standing

NOON_MS = 20_413 * DAY_MS + DAY_MS // 2  # 2025-11-21
TO_NEXT_MONTH_SECONDS = 10 * 86_400
NOTHING = Standing(0, 0, 0, 0, 0, 0, 0, 0)
BUDGETS: Mapping[str, tuple[str, int]] = {  # limit → what counts on it, its units in one
    "requests_per_day": ("requests", 1),
    "tokens_per_day": ("tokens", 1),
    "images_per_day": ("images", 1),
    "speech_characters_per_day": ("characters", 1),
    "audio_seconds_per_day": ("audio_ms", 1000),
    "usd_per_month": ("nano_usd", NANO_USD),
}


class Clock:
    """Seconds since noon, as workers tell them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return NOON_MS + round(self.seconds * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def worker(clock: Clock, *, workers: int = 1) -> LocalQuotas:
    return LocalQuotas(workers=workers, clock=clock, now_ms=clock.now_ms)


def account(**limits: Any) -> Account:
    return Account.of(key_id="k", limits=Limits(**limits))


def hear(quotas: LocalQuotas, account: Account, clock: Clock, *standings: Standing) -> None:
    """Let the worker hear how the account's scopes stand, as the store tells with each answer."""
    told = standings or tuple(NOTHING for _ in account.scopes)
    quotas.note(account, Snapshot(clock.now_ms(), month_of(clock.now_ms()), told))


def refusal(quotas: LocalQuotas, account: Account, **amounts: int) -> QuotaExceeded | None:
    """Ask for one request of `amounts`; return why it is refused."""
    try:
        quotas.reserve(account, Amounts(**amounts))
    except QuotaExceeded as exceeded:
        return exceeded
    return None


def admitted(quotas: LocalQuotas, account: Account, *, tries: int = 200, **amounts: int) -> int:
    """Ask again and again at one moment; return how often it was admitted."""
    return sum(refusal(quotas, account, **amounts) is None for _ in range(tries))


def one_of(limit: str, count: int) -> tuple[Account, dict[str, int]]:
    """Return an account with room for `count` requests of some amount, and that amount."""
    counter, size = BUDGETS[limit]
    each = 1 if counter == "requests" else 10 * size
    value = count * each // size
    limits = {limit: Decimal(value) if counter == "nano_usd" else value}
    return account(**limits), {} if counter == "requests" else {counter: each}


def test_without_limits_everything_is_admitted(clock: Clock) -> None:
    assert admitted(worker(clock), account(), tokens=10**9, nano_usd=10**15) == 200


@pytest.mark.parametrize("limit", BUDGETS)
def test_half_of_what_is_left_of_a_budget_is_shared_by_the_workers(
    clock: Clock, limit: str
) -> None:
    owner, amounts = one_of(limit, 80)
    for workers, share in ((1, 40), (4, 10)):
        quotas = worker(clock, workers=workers)
        hear(quotas, owner, clock)
        assert admitted(quotas, owner, **amounts) == share


@pytest.mark.parametrize("limit", BUDGETS)
def test_what_was_used_before_is_not_left(clock: Clock, limit: str) -> None:
    owner, amounts = one_of(limit, 80)
    counter, _ = BUDGETS[limit]
    quotas = worker(clock)
    hear(quotas, owner, clock, NOTHING._replace(**{counter: 60 * amounts.get(counter, 1)}))
    assert admitted(quotas, owner, **amounts) == 10


@pytest.mark.parametrize("limit", BUDGETS)
def test_a_budget_never_heard_of_admits_nothing(clock: Clock, limit: str) -> None:
    owner, amounts = one_of(limit, 80)
    quotas = worker(clock)
    exceeded = refusal(quotas, owner, **amounts)
    assert exceeded
    assert exceeded.cap == BUDGETS[limit][0]
    assert exceeded.retry_after_seconds == 60


def test_a_budget_that_a_request_does_not_touch_does_not_bind_it(clock: Clock) -> None:
    assert refusal(worker(clock), account(images_per_day=0, tpm=600), tokens=10) is None


def test_a_day_begins_anew_at_midnight_and_a_month_with_its_first(clock: Clock) -> None:
    owner = account(tokens_per_day=1000, usd_per_month=Decimal(1))
    spent = NOTHING._replace(tokens=1000, nano_usd=NANO_USD // 2)
    request = {"tokens": 100, "nano_usd": NANO_USD // 40}
    quotas = worker(clock)
    hear(quotas, owner, clock, spent)
    assert admitted(quotas, owner, **request) == 0
    clock.seconds += 86_400
    assert admitted(quotas, owner, **request) == 5  # tokens bind, and have used up half the money
    clock.seconds += 86_400
    assert admitted(quotas, owner, **request) == 5
    clock.seconds += 86_400
    assert admitted(quotas, owner, **request) == 0  # the money is spent
    clock.seconds += TO_NEXT_MONTH_SECONDS
    assert admitted(quotas, owner, nano_usd=NANO_USD // 40) == 20


def test_a_bucket_gives_its_burst_and_then_its_rate(clock: Clock) -> None:
    owner, quotas = account(rpm=120, rpm_burst=20), worker(clock)
    assert admitted(quotas, owner) == 10
    exceeded = refusal(quotas, owner)
    assert exceeded
    assert (exceeded.cap, exceeded.retry_after_seconds) == ("rpm", 1)
    clock.seconds += 1
    assert admitted(quotas, owner) == 1
    clock.seconds += 3600
    assert admitted(quotas, owner) == 10


def test_a_bucket_is_as_full_as_the_store_last_said_and_leaked_since(clock: Clock) -> None:
    owner, quotas = account(tpm=6000, tpm_burst=1000), worker(clock)
    hear(quotas, owner, clock, NOTHING._replace(tokens_level=900))
    clock.seconds += 5  # 500 leave
    assert admitted(quotas, owner, tokens=1) == 200
    quotas = worker(clock)
    hear(quotas, owner, clock, NOTHING._replace(tokens_level=900))
    assert admitted(quotas, owner, tokens=10) == 5
    owner, quotas = account(rpm=600), worker(clock)  # and 100 at once
    hear(quotas, owner, clock, NOTHING._replace(requests_level=80))
    assert admitted(quotas, owner) == 10


def test_a_request_larger_than_the_part_of_a_bucket_finds_it_empty(clock: Clock) -> None:
    owner, quotas = account(tpm=6000, tpm_burst=1000), worker(clock, workers=10)
    assert refusal(quotas, owner, tokens=3000) is None
    exceeded = refusal(quotas, owner, tokens=3000)
    assert exceeded
    assert exceeded.retry_after_seconds == pytest.approx(600)
    clock.seconds += 600
    assert refusal(quotas, owner, tokens=3000) is None


@pytest.mark.parametrize("limits", [{"tpm": 0}, {"tpm": 600}])
def test_a_request_larger_than_a_minutes_tokens_never_fits(
    clock: Clock, limits: dict[str, int]
) -> None:
    exceeded = refusal(worker(clock), account(**limits), tokens=601)
    assert exceeded
    assert exceeded.retry_after_seconds is None


def test_no_tokens_are_none_too_many(clock: Clock) -> None:
    assert refusal(worker(clock), account(tpm=0), images=1) is None


def test_a_refusal_takes_nothing_of_any_scope(clock: Clock) -> None:
    owner = Account.of(
        key_id="k",
        team="t",
        limits=Limits(requests_per_day=100),
        team_limits=Limits(tokens_per_day=100),
    )
    quotas = worker(clock)
    hear(quotas, owner, clock)
    assert admitted(quotas, owner, tokens=60) == 0
    assert admitted(quotas, owner) == 50


def test_keys_of_a_team_share_its_budget(clock: Clock) -> None:
    first, second = (
        Account.of(key_id=name, team="t", team_limits=Limits(requests_per_day=100)) for name in "ab"
    )
    quotas = worker(clock)
    hear(quotas, first, clock)
    assert admitted(quotas, first, tries=30) == 30
    assert admitted(quotas, second) == 20


def test_concurrency_counts_all_that_is_under_way(clock: Clock) -> None:
    owner, quotas = account(concurrency=12), worker(clock)
    for _ in range(4):  # by leave of the store
        quotas.begin(owner)
    hear(quotas, owner, clock)
    for _ in range(2):
        assert refusal(quotas, owner) is None
        quotas.begin(owner)
    exceeded = refusal(quotas, owner)
    assert exceeded
    assert exceeded.cap == "concurrency"
    quotas.end(owner)
    assert refusal(quotas, owner) is None


def test_concurrency_outlives_a_store_that_comes_and_goes(clock: Clock) -> None:
    owner, quotas = account(concurrency=4), worker(clock)
    for _ in range(3):
        hear(quotas, owner, clock)
        while refusal(quotas, owner) is None:
            quotas.begin(owner)
    for _ in range(2):
        quotas.end(owner)
    assert refusal(quotas, owner) is None


def test_each_worker_may_have_one_request_where_its_part_is_less(clock: Clock) -> None:
    owner, quotas = account(concurrency=2), worker(clock, workers=8)
    assert refusal(quotas, owner) is None
    quotas.begin(owner)
    assert refusal(quotas, owner)
    assert refusal(worker(clock), account(concurrency=0))


def test_a_store_that_comes_and_goes_gives_no_second_share(clock: Clock) -> None:
    owner, other = account(requests_per_day=100), Account.of(key_id="other", limits=Limits(rpm=1))
    quotas = worker(clock)
    hear(quotas, owner, clock)
    assert admitted(quotas, owner) == 50
    hear(quotas, other, clock)
    assert admitted(quotas, owner) == 0
    hear(quotas, owner, clock, NOTHING._replace(requests=50))
    assert admitted(quotas, owner) == 25


def test_limits_that_change_meanwhile_bind_at_once(clock: Clock) -> None:
    quotas = worker(clock)
    hear(quotas, account(requests_per_day=100), clock)
    assert admitted(quotas, account(requests_per_day=100), tries=30) == 30
    assert admitted(quotas, account(requests_per_day=50)) == 0
    assert admitted(quotas, account(requests_per_day=200)) == 70
    assert refusal(quotas, account(requests_per_day=1000, tokens_per_day=10), tokens=6)


def test_a_budget_that_shrinks_below_its_use_binds_what_it_counts(clock: Clock) -> None:
    quotas = worker(clock)
    hear(quotas, account(images_per_day=10), clock)
    assert refusal(quotas, account(images_per_day=10), images=5) is None
    assert refusal(quotas, account(images_per_day=4), images=1)
    assert refusal(quotas, account(images_per_day=4), tokens=1) is None


def test_a_forgotten_share_is_not_begun_anew(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "_REMEMBERED", 10)
    owners = [Account.of(key_id=str(at), limits=Limits(requests_per_day=4)) for at in range(11)]
    quotas = worker(clock)
    hear(quotas, owners[0], clock)
    assert admitted(quotas, owners[0]) == 2
    for other in owners[1:]:
        assert refusal(quotas, other)
    assert admitted(quotas, owners[0]) == 0


_RATES = st.integers(min_value=1, max_value=100_000)


@given(
    workers=st.integers(min_value=1, max_value=40),
    rpm=_RATES,
    tpm=_RATES,
    budget=st.integers(min_value=0, max_value=100_000),
    used=st.integers(min_value=0, max_value=100_000),
    levels=st.tuples(st.integers(0, 20_000), st.integers(0, 20_000)),
    asked=st.lists(
        st.tuples(
            st.integers(min_value=0, max_value=39),
            st.integers(min_value=0, max_value=3000),
            st.floats(min_value=0, max_value=30),
        ),
        max_size=60,
    ),
)
def test_all_workers_together_admit_at_most_half(
    workers: int,
    rpm: int,
    tpm: int,
    budget: int,
    used: int,
    levels: tuple[int, int],
    asked: list[tuple[int, int, float]],
) -> None:
    clock = Clock()
    owner = account(rpm=rpm, tpm=tpm, tokens_per_day=budget, requests_per_day=budget)
    fleet = [worker(clock, workers=workers) for _ in range(workers)]
    for quotas in fleet:
        hear(quotas, owner, clock, Standing(*levels, used, used, 0, 0, 0, 0))
    requests, tokens, largest = 0, 0, 0
    for at, amount, pause in asked:
        clock.seconds += pause
        if refusal(fleet[at % workers], owner, tokens=amount) is None:
            requests, tokens, largest = requests + 1, tokens + amount, max(largest, amount)
    [caps], minutes = owner.caps, clock.seconds / 60
    left = max(0, budget - used) / 2
    assert requests <= left
    assert tokens <= left
    assert requests <= max(caps.rpm_burst / 2, workers) + rpm / 2 * minutes + 1e-3
    assert tokens <= max(caps.tpm_burst / 2, workers * largest) + tpm / 2 * minutes + 1e-3


@given(
    workers=st.integers(min_value=1, max_value=20),
    concurrency=st.integers(min_value=0, max_value=50),
    steps=st.lists(st.tuples(st.integers(min_value=0, max_value=19), st.booleans()), max_size=200),
)
def test_all_workers_together_have_at_most_half_under_way_or_one_each(
    workers: int, concurrency: int, steps: list[tuple[int, bool]]
) -> None:
    owner, clock = account(concurrency=concurrency), Clock()
    fleet = [worker(clock, workers=workers) for _ in range(workers)]
    under_way = [0] * workers
    for at, begins in steps:
        number = at % workers
        if begins and refusal(fleet[number], owner) is None:
            fleet[number].begin(owner)
            under_way[number] += 1
        elif under_way[number] and not begins:
            fleet[number].end(owner)
            under_way[number] -= 1
        assert sum(under_way) <= (max(concurrency / 2, workers) if concurrency else 0)
