"""Allowances: what is left of each of an account's limits, and when it is whole again.

For headers, errors and `/v1/usage`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from gateway.accounts import Account
from gateway.amounts import Amounts
from gateway.errors import GatewayError
from gateway.ledger import DAY_MS, first_day_of
from gateway.limits import NANO_USD
from gateway.quotas import QuotaExceeded, Snapshot

_SOON_SECONDS = 60.0  # a client that waits longer for one request has better things to do

# Cap → the limit's name on the command line, its unit in errors, units of the counter in one.
NAMES: dict[str, tuple[str, str, int]] = {
    "rpm": ("rpm", "requests per minute", 1),
    "tpm": ("tpm", "tokens per minute", 1),
    "concurrency": ("concurrency", "requests at a time", 1),
    "requests": ("requests_per_day", "requests per day", 1),
    "tokens": ("tokens_per_day", "tokens per day", 1),
    "images": ("images_per_day", "images per day", 1),
    "characters": ("speech_characters_per_day", "spoken characters per day", 1),
    "audio_ms": ("audio_seconds_per_day", "seconds of audio per day", 1000),
    "nano_usd": ("usd_per_month", "US dollars per month", NANO_USD),
}
_HARD = frozenset(("requests", "tokens", "images", "characters", "audio_ms", "nano_usd"))
_OF_TOKENS = frozenset(("tpm", "tokens"))


@dataclass(frozen=True, slots=True)
class Allowance:
    """One limit of one scope, in the units of its counter."""

    scope: str
    cap: str
    limit: int
    used: int
    remaining: int
    reset_seconds: float


def allowances(account: Account, snapshot: Snapshot) -> Iterator[Allowance]:
    """Yield what is left of each limit but concurrency, which the snapshot does not tell."""
    to_midnight = (DAY_MS - snapshot.now_ms % DAY_MS) / 1000
    for scope, caps, standing in zip(account.scopes, account.caps, snapshot.standings, strict=True):
        if caps.rpm >= 0:
            yield _bucket(scope, "rpm", caps.rpm, caps.rpm_burst, standing.requests_level)
        if caps.tpm >= 0:
            yield _bucket(scope, "tpm", caps.tpm, caps.tpm_burst, standing.tokens_level)
        for cap in ("requests", "tokens", "images", "characters", "audio_ms"):
            limit: int = getattr(caps, cap)
            if limit >= 0:
                yield _window(scope, cap, limit, getattr(standing, cap), to_midnight)
        if caps.nano_usd >= 0:
            seconds = first_day_of(snapshot.month + 1) * DAY_MS / 1000 - snapshot.now_ms / 1000
            yield _window(scope, "nano_usd", caps.nano_usd, standing.nano_usd, seconds)


def charges(account: Account, amounts: Amounts) -> Iterator[tuple[str, str, int, int]]:
    """Yield the limits that an exchange of `amounts` counts on: scope, cap, limit, what it takes.

    The last two are in the units of the limit's counter.
    """
    taken = {"rpm": 1, "concurrency": 1, "requests": 1, "tpm": amounts.tokens, **amounts._asdict()}
    for scope, caps in zip(account.scopes, account.caps, strict=True):
        for cap, amount in taken.items():
            limit: int = getattr(caps, cap)
            if limit >= 0 and amount:
                yield scope, cap, limit, amount


def in_units(value: int, cap: str) -> int | float:
    """Return a counter's value in the unit that `cap` is set in."""
    size = NAMES[cap][2]
    if size == NANO_USD:
        return float(Decimal(value) / NANO_USD)
    return value if size == 1 else value / size


def rate_limit_headers(account: Account, snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return OpenAI's `x-ratelimit-*`: of requests and of tokens the limit that binds first."""
    if account.is_unlimited:
        return []
    found = list(allowances(account, snapshot))
    headers: list[tuple[str, str]] = []
    for unit, caps in (("requests", ("rpm", "requests")), ("tokens", ("tpm", "tokens"))):
        bound = [one for one in found if one.cap in caps]
        if bound:
            least = min(bound, key=lambda one: (one.remaining, -one.reset_seconds))
            headers += [
                (f"x-ratelimit-limit-{unit}", str(least.limit)),
                (f"x-ratelimit-remaining-{unit}", str(least.remaining)),
                (f"x-ratelimit-reset-{unit}", render_duration(least.reset_seconds)),
            ]
    return headers


def refusal(exceeded: QuotaExceeded) -> GatewayError:
    """Return the 429: a rate that will soon allow it, or a budget that is spent."""
    _, unit, size = NAMES[exceeded.cap]
    seconds, is_budget = exceeded.retry_after_seconds, exceeded.cap in _HARD
    limit = f"{'budget' if is_budget else 'limit'} of {_number(exceeded.limit / size)} {unit}"
    limit = f"{exceeded.scope.partition(':')[0]}'s {limit}"
    headers = dict(rate_limit_headers(exceeded.account, exceeded.snapshot))
    if seconds is None:
        message = f"This request alone may use more than the {limit}: ask for less."
    else:
        milliseconds = max(1, math.ceil(seconds * 1000))
        headers["retry-after"] = str(math.ceil(milliseconds / 1000))
        headers["retry-after-ms"] = str(milliseconds)
        end = "spent" if is_budget else "reached"
        message = f"The {limit} is {end}. Try again in {render_duration(seconds)}."
    if seconds is None or seconds > _SOON_SECONDS:
        headers["x-should-retry"] = "false"
    if is_budget:
        kind = code = "insufficient_quota"
    else:
        kind = "tokens" if exceeded.cap in _OF_TOKENS else "requests"
        code = "rate_limit_exceeded"
    return GatewayError(message, status=429, type=kind, code=code, headers=headers)


def render_duration(seconds: float) -> str:
    """Return a time as OpenAI writes it: `12ms`, `1.5s`, `6m0s`, `23h59m59s`."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    whole, rest = divmod(milliseconds, 1000)
    if whole < 60:
        return f"{_number(milliseconds / 1000)}s"
    minutes, secs = divmod(whole + (rest > 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{secs}s" if hours else f"{minutes}m{secs}s"


def _bucket(scope: str, cap: str, per_minute: int, burst: int, level: int) -> Allowance:
    reset = level * 60 / per_minute if per_minute else 0.0
    return Allowance(scope, cap, per_minute, level, max(0, burst - level), reset)


def _window(scope: str, cap: str, limit: int, used: int, reset_seconds: float) -> Allowance:
    return Allowance(scope, cap, limit, used, max(0, limit - used), reset_seconds)


def _number(value: float) -> str:
    return f"{value:,.9f}".rstrip("0").rstrip(".")
