"""Accounts: the counters that a caller's requests touch in the state store, known once per caller.

All keys of one team, or of one caller without a team, share a hash tag, so that a script may
touch them together on a cluster too. By shard `{qNN}` and scope (`key:<id>`, `team:<name>`):

    ready:{qNN}           set once the shard's counters are known; no script acts before
    leases:{qNN}          hash: request id → what it holds, as JSON
    expiry:{qNN}          sorted set: request id, until when (ms)
    ledger:{qNN}          stream of records on their way to the book
    mark:{qNN}:<id>       a request that was settled, or abandoned, a while ago
    use:{qNN}:<scope>     hash: what was used on day `d` and in month `m` (fields below), and the
                          level of its requests' bucket `rl` at `rt` (µs), of its tokens' `tl`, `tt`
    open:{qNN}:<scope>    sorted set: the scope's live leases
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from gateway.limits import NANO_USD, Limits

SHARDS = 64
DAY_FIELDS = ("d1", "d2", "d3", "d4", "d5")
"""Used on day `d`: requests, tokens, images, spoken characters, transcribed milliseconds."""
MONTH_FIELD = "m1"
"""Used in month `m`: nano-USD."""

_NONE = -1  # no limit
_LEAST_BURST = 10  # or the rate itself, where that is less
_BURST_FRACTION = 6


class Caps(NamedTuple):
    """One scope's limits as the scripts take them: whole numbers, -1 for none."""

    concurrency: int = _NONE
    rpm: int = _NONE
    rpm_burst: int = _NONE
    tpm: int = _NONE
    tpm_burst: int = _NONE
    requests: int = _NONE  # per day
    tokens: int = _NONE
    images: int = _NONE
    characters: int = _NONE
    audio_ms: int = _NONE
    nano_usd: int = _NONE  # per month

    @classmethod
    def of(cls, limits: Limits) -> Caps:
        """Return `limits` with their bursts filled in."""
        seconds, usd = limits.audio_seconds_per_day, limits.usd_per_month
        return cls(
            concurrency=_cap(limits.concurrency),
            rpm=_cap(limits.rpm),
            rpm_burst=_burst(limits.rpm, limits.rpm_burst),
            tpm=_cap(limits.tpm),
            tpm_burst=_burst(limits.tpm, limits.tpm_burst),
            requests=_cap(limits.requests_per_day),
            tokens=_cap(limits.tokens_per_day),
            images=_cap(limits.images_per_day),
            characters=_cap(limits.speech_characters_per_day),
            audio_ms=_NONE if seconds is None else seconds * 1000,
            nano_usd=_NONE if usd is None else int(usd * NANO_USD),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a caller's requests are counted on. `packed` are the caps as MessagePack."""

    shard: int
    scopes: tuple[str, ...]
    caps: tuple[Caps, ...]
    packed: bytes = field(repr=False)
    keys: tuple[str, ...] = field(repr=False)
    counts_tokens: bool
    """Whether an exact estimate of tokens matters: some limit is on tokens or money."""
    is_unlimited: bool

    @classmethod
    def of(
        cls,
        *,
        key_id: str,
        team: str | None = None,
        limits: Limits | None = None,
        team_limits: Limits | None = None,
    ) -> Account:
        """Return the account of a key and its team."""
        shard = shard_of(team or key_id)
        scopes, caps = [key_scope(key_id)], [Caps.of(limits or Limits())]
        if team is not None:
            scopes.append(team_scope(team))
            caps.append(Caps.of(team_limits or Limits()))
        return cls(
            shard=shard,
            scopes=tuple(scopes),
            caps=tuple(caps),
            packed=msgspec.msgpack.encode(caps),
            keys=(*shard_keys(shard), *(name for scope in scopes for name in _keys(shard, scope))),
            counts_tokens=any(max(cap.tpm, cap.tokens, cap.nano_usd) >= 0 for cap in caps),
            is_unlimited=all(max(cap) < 0 for cap in caps),
        )


def key_scope(key_id: str) -> str:
    """Return the scope of one key."""
    return f"key:{key_id}"


def team_scope(team: str) -> str:
    """Return the scope of one team."""
    return f"team:{team}"


def shard_of(owner: str) -> int:
    """Return the shard of a team, or of a key that has no team."""
    return zlib.crc32(owner.encode()) % SHARDS


def tag(shard: int) -> str:
    """Return the hash tag of a shard."""
    return f"{{q{shard:02}}}"


def shard_keys(shard: int) -> tuple[str, str, str, str]:
    """Return the store's keys that a whole shard has, in the order that the scripts expect."""
    name = tag(shard)
    return f"ready:{name}", f"leases:{name}", f"expiry:{name}", f"ledger:{name}"


def use_key(shard: int, scope: str) -> str:
    """Return the store's key of a scope's counters."""
    return f"use:{tag(shard)}:{scope}"


def mark_key(shard: int, request_id: str) -> str:
    """Return the store's key that tells a request's end."""
    return f"mark:{tag(shard)}:{request_id}"


def _keys(shard: int, scope: str) -> tuple[str, str]:
    return use_key(shard, scope), f"open:{tag(shard)}:{scope}"


def _cap(limit: int | None) -> int:
    return _NONE if limit is None else limit


def _burst(rate: int | None, burst: int | None) -> int:
    """Return what may be taken at once: a sixth of a minute's rate, ten at least.

    In the worst minute a bucket lets through its rate and its burst. With a sixth that is 69
    requests of 60, with the whole rate it would be 119 (both measured).
    """
    if rate is None:
        return _NONE
    if burst is not None:
        return burst
    return max(min(rate, _LEAST_BURST), math.ceil(rate / _BURST_FRACTION))
