"""One process of callers that reserve and settle at random, for tests of the counters.

Prints a word when its first request is admitted, and how many were when its time is over.
"""

from __future__ import annotations

import asyncio
import random
import sys
from decimal import Decimal

import msgspec

from gateway.accounts import Account
from gateway.amounts import Amounts
from gateway.edge import uuid7
from gateway.ledger import Record
from gateway.limits import Limits
from gateway.quotas import QuotaExceeded, Settlement, check_settled, reserve, settle
from gateway.store import Store

KEYS, TEAM, TASKS, LEASE_MS = ("a", "b", "c"), "race", 50, 1500
PRICE = 1_003  # nano-USD per token, as good as any
KEY_LIMITS = Limits(
    rpm=9_000,
    rpm_burst=40,
    tpm=3_000_000,
    tpm_burst=9_000,
    concurrency=25,
    requests_per_day=900,
    tokens_per_day=120_000,
    images_per_day=1_500,
    speech_characters_per_day=60_000,
    audio_seconds_per_day=600,
    usd_per_month=Decimal("0.12"),
)
TEAM_LIMITS = Limits(
    rpm=20_000,
    rpm_burst=60,
    tpm=6_000_000,
    tpm_burst=15_000,
    concurrency=45,
    requests_per_day=2_000,
    tokens_per_day=250_000,
    images_per_day=3_100,
    speech_characters_per_day=120_000,
    audio_seconds_per_day=1_300,
    usd_per_month=Decimal("0.25"),
)


def accounts() -> list[Account]:
    """Return the accounts of all keys, which share a team."""
    return [
        Account.of(key_id=key, team=TEAM, limits=KEY_LIMITS, team_limits=TEAM_LIMITS)
        for key in KEYS
    ]


def amounts_of(record: Record) -> Amounts:
    """Return what a record says was used, as the counters count it."""
    return Amounts(
        record.input_tokens + record.output_tokens,
        record.images,
        record.characters,
        record.audio_ms,
        record.nano_usd,
    )


def _record(request_id: str, account: Account, amounts: Amounts, *, status: str) -> bytes:
    return msgspec.json.encode(
        Record(
            request_id=request_id,
            key_id=account.scopes[0].removeprefix("key:"),
            team=TEAM,
            model="m",
            target="m",
            upstream="u",
            task="chat",
            status=status,  # type: ignore[arg-type]
            output_tokens=amounts.tokens,
            images=amounts.images,
            characters=amounts.characters,
            audio_ms=amounts.audio_ms,
            nano_usd=amounts.nano_usd,
        )
    )


def _part(amounts: Amounts, fraction: float) -> Amounts:
    return Amounts(*(int(amount * fraction) for amount in amounts))


async def request(
    store: Store, account: Account, chance: random.Random, admitted: asyncio.Event
) -> bool:
    """Reserve, work a while, settle, perhaps twice. Tell whether it was admitted."""
    request_id, tokens = uuid7(), chance.randint(1, 900)
    wanted = Amounts(
        tokens,
        chance.randint(0, 9),
        chance.randint(0, 400),
        chance.randint(0, 4000),
        tokens * PRICE,
    )
    charged = _part(wanted, 0.3)
    try:
        snapshot = await reserve(
            store,
            account,
            request_id,
            amounts=wanted,
            charged_if_abandoned=charged,
            abandoned_record=_record(request_id, account, charged, status="abandoned"),
            lease_ms=LEASE_MS,
        )
    except QuotaExceeded:
        await asyncio.sleep(chance.random() * 0.02)
        return False
    if not admitted.is_set():
        print("admitted", flush=True)
        admitted.set()
    await asyncio.sleep(chance.random() * 0.05)
    used = _part(wanted, chance.random())
    settlement = Settlement(
        request_id=request_id,
        shard=account.shard,
        keys=account.keys,
        caps=account.packed,
        at_ms=snapshot.now_ms,
        month=snapshot.month,
        reserved=wanted,
        used=used,
        record=_record(request_id, account, used, status="ok").decode(),
    )
    twice = chance.random() < 0.2
    for answer in [settle(store, settlement) for _ in range(1 + twice)]:
        check_settled(await answer)
    return True


async def main(url: str, seconds: float, seed: int) -> int:
    """Return how many requests were admitted."""
    store = Store(url, timeout_seconds=5)
    loop = asyncio.get_running_loop()
    until, chance, found = loop.time() + seconds, random.Random(seed), accounts()
    first = asyncio.Event()

    async def caller() -> int:
        admitted = 0
        while loop.time() < until:
            admitted += await request(store, chance.choice(found), chance, first)
        return admitted

    try:
        return sum(await asyncio.gather(*(caller() for _ in range(TASKS))))
    finally:
        await store.aclose()


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))))
