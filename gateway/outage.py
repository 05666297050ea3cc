"""Quotas without the store: a worker's cautious share of what was left when it was last heard of.

A worker admits half of its part of each limit: with `workers` processes at work, all together at
most half of a rate, and half of what the worker last knew to be left of a budget. A budget that
it does not know admits nothing. Where its part of a rate or of `concurrency` is less than one
request, it admits one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from math import ceil

from gateway.accounts import DAY_FIELDS, Account, Caps
from gateway.amounts import Amounts
from gateway.ledger import day_of, month_of
from gateway.quotas import QuotaExceeded, Snapshot, Standing

_CAUTION = 0.5
_REMEMBERED = 20_000  # scopes
_BUDGETS = ("requests", "tokens", "images", "characters", "audio_ms", "nano_usd")
_OF_A_DAY = _BUDGETS[: len(DAY_FIELDS)]
_NOTHING = Standing(0, 0, 0, 0, 0, 0, 0, 0)
_SOON_MS = 1000
_LATER_MS = 60_000  # the store may be back by then


class _Share:
    """What one scope used here since it was last heard of: by budget, and as levels of buckets.

    The buckets were so full at `at`, in seconds of the clock.
    """

    __slots__ = ("at", "day", "month", "requests", "tokens", "used")

    def __init__(self, *, at: float, requests: float, tokens: float) -> None:
        self.at = at
        self.requests = requests
        self.tokens = tokens
        self.day = self.month = 0
        self.used = dict.fromkeys(_BUDGETS, 0)

    def advance(self, caps: Caps, part: float, *, now: float, now_ms: int) -> None:
        """Let the buckets run down to what they hold now, and days and months begin anew."""
        minutes, self.at = (now - self.at) / 60 * part, now
        self.requests = max(0.0, self.requests - minutes * max(0, caps.rpm))
        self.tokens = max(0.0, self.tokens - minutes * max(0, caps.tpm))
        day, month = day_of(now_ms), month_of(now_ms)
        if day != self.day:
            self.used |= dict.fromkeys(_OF_A_DAY, 0)
        if month != self.month:
            self.used["nano_usd"] = 0
        self.day, self.month = day, month

    def take(self, needs: dict[str, int]) -> None:
        """Count `needs` as used."""
        self.requests += 1
        self.tokens += needs["tokens"]
        for cap in _BUDGETS:
            self.used[cap] += needs[cap]


class LocalQuotas:
    """One worker's memory of how accounts stood, and what it admits while it has no store."""

    def __init__(
        self,
        *,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._part = _CAUTION / workers
        self._clock = clock
        self._now_ms = now_ms
        self._known: OrderedDict[str, tuple[int, int, Standing]] = OrderedDict()
        self._shares: OrderedDict[str, _Share] = OrderedDict()
        self._open: dict[str, int] = {}

    def note(self, account: Account, snapshot: Snapshot) -> None:
        """Remember how an account stood. Its shares are void: the store counts again."""
        if account.is_unlimited:
            return
        known = self._known
        for scope, standing in zip(account.scopes, snapshot.standings, strict=True):
            known[scope] = (snapshot.now_ms, snapshot.month, standing)
            known.move_to_end(scope)
            self._shares.pop(scope, None)
        while len(known) > _REMEMBERED:
            known.popitem(last=False)

    def begin(self, account: Account) -> None:
        """Count a request as under way in this worker, whoever admitted it."""
        for scope, caps in zip(account.scopes, account.caps, strict=True):
            if caps.concurrency >= 0:
                self._open[scope] = self._open.get(scope, 0) + 1

    def end(self, account: Account) -> None:
        """Count a request that began as ended."""
        for scope, caps in zip(account.scopes, account.caps, strict=True):
            if caps.concurrency >= 0:
                self._open[scope] -= 1
                if not self._open[scope]:
                    del self._open[scope]

    def reserve(self, account: Account, amounts: Amounts) -> None:
        """Admit a request of `amounts` out of this worker's share. Raises QuotaExceeded."""
        if account.is_unlimited:
            return
        needs = {"requests": 1, **amounts._asdict()}
        shares = [self._share(*one) for one in zip(account.scopes, account.caps, strict=True)]
        for index, share in enumerate(shares):
            refusals = self._refusals(account.scopes[index], account.caps[index], share, needs)
            for cap, wait_ms in refusals:
                raise QuotaExceeded(
                    account, self._snapshot(account), scope=index, cap=cap, wait_ms=wait_ms
                )
        for share in shares:
            share.take(needs)

    def _refusals(
        self, scope: str, caps: Caps, share: _Share, needs: dict[str, int]
    ) -> Iterator[tuple[str, int]]:
        """Yield what does not allow `needs`, and for how many milliseconds; -1: it never will."""
        part, most = self._part, caps.concurrency
        if most >= 0 and self._open.get(scope, 0) + 1 > min(most, max(1, most * part)):
            yield "concurrency", _SOON_MS
        for cap, level, rate, burst, amount in (
            ("rpm", share.requests, caps.rpm, caps.rpm_burst, 1),
            ("tpm", share.tokens, caps.tpm, caps.tpm_burst, needs["tokens"]),
        ):
            if rate >= 0 and (wait_ms := _wait_ms(level, rate, burst, amount, part=part)):
                yield cap, wait_ms
        used = self._used(scope)
        for cap in _BUDGETS:
            budget, need = getattr(caps, cap), needs[cap]
            left = max(0, budget - getattr(used, cap)) * part - share.used[cap] if used else 0
            if budget >= 0 and need > max(0, left):
                yield cap, _LATER_MS

    def _share(self, scope: str, caps: Caps) -> _Share:
        """Return the share of a scope as it is now."""
        now, now_ms = self._clock(), self._now_ms()
        share = self._shares.get(scope)
        if share is None:
            at_ms, _, heard = self._known.get(scope, (now_ms, 0, _NOTHING))
            share = self._shares[scope] = _Share(
                at=now - max(0, now_ms - at_ms) / 1000,
                requests=heard.requests_level * self._part,
                tokens=heard.tokens_level * self._part,
            )
        self._shares.move_to_end(scope)
        if len(self._shares) > _REMEMBERED:
            # Without its share a scope must not be known either: it would begin the share anew.
            oldest, _ = self._shares.popitem(last=False)
            self._known.pop(oldest, None)
        share.advance(caps, self._part, now=now, now_ms=now_ms)
        return share

    def _used(self, scope: str) -> Standing | None:
        """Return what a scope had used when it was last heard of; days and months begin anew."""
        if scope not in self._known:
            return None
        at_ms, month, standing = self._known[scope]
        if day_of(at_ms) != day_of(self._now_ms()):
            standing = standing._replace(**dict.fromkeys(_OF_A_DAY, 0))
        return standing if month == month_of(self._now_ms()) else standing._replace(nano_usd=0)

    def _snapshot(self, account: Account) -> Snapshot:
        standings = tuple(self._used(scope) or _NOTHING for scope in account.scopes)
        return Snapshot(self._now_ms(), month_of(self._now_ms()), standings)


def _wait_ms(level: float, rate: int, burst: int, amount: int, *, part: float) -> int:
    """Return when a part of a bucket takes `amount`: 0 now, -1 never. As `reserve.lua` does."""
    if amount > max(rate, burst) or rate == 0:
        return -1 if amount else 0
    over = level + amount - max(burst * part, amount)
    return ceil(over * 60_000 / (rate * part)) if over > 1e-6 else 0
