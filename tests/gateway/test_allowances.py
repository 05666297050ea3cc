"""What a client is told of its limits: headers, refusals, durations."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from gateway.accounts import Account, Caps
from gateway.allowances import rate_limit_headers, refusal, render_duration
from gateway.ledger import DAY_MS, month_of
from gateway.limits import Limits
from gateway.quotas import QuotaExceeded, Snapshot, Standing

NOON = 20_779 * DAY_MS + DAY_MS // 2  # 2026-11-22, 12:00 UTC
NOTHING = Standing(0, 0, 0, 0, 0, 0, 0, 0)


def account(team_limits: Limits | None = None, **limits: Any) -> Account:
    team = "t" if team_limits else None
    return Account.of(key_id="k", team=team, limits=Limits(**limits), team_limits=team_limits)


def snapshot(*standings: Standing) -> Snapshot:
    return Snapshot(NOON, month_of(NOON), standings)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0121, "13ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (59.9996, "1m0s"),
        (3600, "1h0m0s"),
        (86_399.2, "24h0m0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert render_duration(seconds) == text


def test_headers_tell_of_the_limit_that_binds_first() -> None:
    of_two = account(
        Limits(rpm=600, tokens_per_day=5_000), rpm=60, tpm=6_000, requests_per_day=1_000
    )
    key = NOTHING._replace(requests_level=4, tokens_level=300, requests=997)
    team = NOTHING._replace(requests_level=90, tokens=4_500)
    assert dict(rate_limit_headers(of_two, snapshot(key, team))) == {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "12h0m0s",
        "x-ratelimit-limit-tokens": "5000",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "12h0m0s",
    }


def test_a_rate_resets_when_its_bucket_is_empty() -> None:
    headers = dict(
        rate_limit_headers(account(rpm=60), snapshot(NOTHING._replace(requests_level=4)))
    )
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "6"  # of a burst of ten
    assert headers["x-ratelimit-reset-requests"] == "4s"


def test_without_limits_there_are_no_headers() -> None:
    assert rate_limit_headers(account(), snapshot(NOTHING)) == []


@pytest.mark.parametrize(
    ("limits", "cap", "wait_ms", "told"),
    [
        ({"rpm": 60}, "rpm", 1_234, ("requests", "rate_limit_exceeded", "2", None)),
        ({"tpm": 60}, "tpm", 999, ("tokens", "rate_limit_exceeded", "1", None)),
        ({"tpm": 6}, "tpm", 61_000, ("tokens", "rate_limit_exceeded", "61", "false")),
        ({"tpm": 6}, "tpm", -1, ("tokens", "rate_limit_exceeded", None, "false")),
        ({"concurrency": 1}, "concurrency", 1_000, ("requests", "rate_limit_exceeded", "1", None)),
        (
            {"tokens_per_day": 9},
            "tokens",
            43_200_000,
            ("insufficient_quota", "insufficient_quota", "43200", "false"),
        ),
    ],
)
def test_a_refusal_tells_what_binds_and_until_when(limits, cap, wait_ms, told) -> None:
    spent = account(**limits)
    error = refusal(QuotaExceeded(spent, snapshot(NOTHING), scope=0, cap=cap, wait_ms=wait_ms))
    assert error.status == 429
    headers = error.headers
    found = (error.type, error.code, headers.get("retry-after"), headers.get("x-should-retry"))
    assert found == told


def test_money_is_told_in_dollars() -> None:
    spent = account(usd_per_month=Decimal("12.5"))
    exceeded = QuotaExceeded(spent, snapshot(NOTHING), scope=0, cap="nano_usd", wait_ms=9_000_000)
    assert "budget of 12.5 US dollars per month" in refusal(exceeded).message


@pytest.mark.parametrize(
    ("rate", "burst", "at_once"),
    [(3, None, 3), (60, None, 10), (600, None, 100), (601, None, 101), (60, 1, 1), (0, None, 0)],
)
def test_a_burst_is_a_sixth_of_the_rate_but_at_least_ten(rate, burst, at_once) -> None:
    assert Caps.of(Limits(rpm=rate, rpm_burst=burst)).rpm_burst == at_once
