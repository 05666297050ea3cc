"""Limits of keys and teams: up to them requests are admitted, beyond they are told why not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest

from tests.acceptance.metering.customer import Customer
from tests.acceptance.metering.exchange_kinds import KINDS, Json, Kind
from tests.acceptance.metering.pace import Pace, asking
from tests.metered import Metered
from tests.scripted_upstream import Upstream

pytestmark = pytest.mark.anyio

RATE, BUDGET = "rate_limit_exceeded", "insufficient_quota"


# A chat reserves 16 tokens of prompt and four more, and uses ten.
CHATS = tuple(KINDS[name].having(max_tokens=4) for name in ("openai-chat", "openai-chat-stream"))
IMAGES = (KINDS["images"], KINDS["images-stream"])
SPEECH = (KINDS["speech-of-one-piece"], KINDS["speech-of-one-piece"].having(stream_format="sse"))
TRANSCRIPTIONS = (KINDS["transcription"],) * 2


@dataclass(frozen=True, slots=True)
class Case:
    """`limits` admit `admitted` requests of `kinds` (whole, streamed) one after another."""

    limits: Json
    kinds: tuple[Kind, ...]
    admitted: int
    type: str
    code: str
    says: str


CASES = {
    # Rates that refill slowly, so that a slow machine makes no difference.
    "rpm": Case({"rpm": 6, "rpm_burst": 2}, CHATS, 2, "requests", RATE, "6 requests per minute"),
    "tpm": Case({"tpm": 20, "tpm_burst": 40}, CHATS, 3, "tokens", RATE, "20 tokens per minute"),
    "requests_per_day": Case(
        {"requests_per_day": 2}, CHATS, 2, BUDGET, BUDGET, "2 requests per day"
    ),
    "tokens_per_day": Case({"tokens_per_day": 45}, CHATS, 3, BUDGET, BUDGET, "45 tokens per day"),
    "images_per_day": Case({"images_per_day": 9}, IMAGES, 2, BUDGET, BUDGET, "9 images per day"),
    "speech_characters_per_day": Case(
        {"speech_characters_per_day": 25}, SPEECH, 2, BUDGET, BUDGET, "25 spoken characters per day"
    ),
    "audio_seconds_per_day": Case(
        {"audio_seconds_per_day": 1},
        TRANSCRIPTIONS,
        4,
        BUDGET,
        BUDGET,
        "1 seconds of audio per day",
    ),
    # Reserves 8,400 nano-USD and uses 4,550.
    "usd_per_month": Case(
        {"usd_per_month": Decimal("0.000018")}, CHATS, 3, BUDGET, BUDGET, "0.000018 US dollars"
    ),
}


def assert_tells_when(answer: httpx.Response, name: str) -> None:
    """Check that a refusal says when the limit `name` allows it again."""
    milliseconds = int(answer.headers["retry-after-ms"])
    assert int(answer.headers["retry-after"]) == math.ceil(milliseconds / 1000)
    if name in ("rpm", "tpm"):
        assert 0 < milliseconds <= 30_000
        assert "x-should-retry" not in answer.headers
    else:
        left = (end_of(name) - datetime.now(UTC)).total_seconds()
        assert milliseconds / 1000 == pytest.approx(left, abs=5)
        assert answer.headers["x-should-retry"] == "false"


def end_of(name: str) -> datetime:
    """Return when the day's or the month's budget is whole again."""
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if name != "usd_per_month":
        return day + timedelta(days=1)
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("owner", ["key", "team"])
@pytest.mark.parametrize("name", CASES)
async def test_a_limit_admits_what_fits_and_names_itself_beyond(
    metered: Metered, upstream: Upstream, name: str, owner: str, stream: bool
) -> None:
    case = CASES[name]
    kind = case.kinds[stream]
    customer = await Customer.of(metered, owner=owner, **case.limits)
    upstream.play(kind.at_once)
    async with customer.client() as client:
        for _ in range(case.admitted):
            assert (await kind.ask(client)).status_code == 200
        visits, before = len(upstream.visits), await customer.used()
        answer = await kind.ask(client)
    assert await customer.used() == before
    assert len(upstream.visits) == visits
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == (case.type, case.code, None)
    assert error["message"].startswith(f"The {owner}'s ")
    assert case.says in error["message"]
    assert_tells_when(answer, name)


@pytest.mark.parametrize("owner", ["key", "team"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tpm", CHATS[0]),
        ("tokens_per_day", CHATS[1]),
        ("images_per_day", IMAGES[0]),
        ("requests_per_day", CHATS[0]),
        ("concurrency", CHATS[0]),
        ("usd_per_month", CHATS[0]),
    ],
)
async def test_what_never_fits_is_not_to_be_tried_again(
    metered: Metered, upstream: Upstream, name: str, kind: Kind, owner: str
) -> None:
    least = Decimal("0.000000001") if name == "usd_per_month" else 0
    customer = await Customer.of(metered, owner=owner, **{name: least})
    async with customer.client() as client:
        answer = await kind.ask(client)
    assert answer.status_code == 429
    assert f"may use more than the {owner}'s" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert "retry-after-ms" not in answer.headers
    assert upstream.visits == []


@pytest.mark.parametrize(("refusing", "other"), [("key", "team"), ("team", "key")])
async def test_a_refusal_by_one_takes_nothing_from_the_other(
    metered: Metered, upstream: Upstream, refusing: str, other: str
) -> None:
    customer = await Customer.of(metered, owner=refusing, requests_per_day=1)
    await customer.limit(other, rpm=1, rpm_burst=10, tpm=1, tpm_burst=1000)
    upstream.play(CHATS[0].at_once)
    async with customer.client() as client:
        assert (await CHATS[0].ask(client)).status_code == 200
        assert (await CHATS[0].ask(client)).status_code == 429
        report = (await client.get("/usage")).json()
    used = {(one["scope"], one["name"]): one["used"] for one in report["limits"]}
    assert used == {(refusing, "requests_per_day"): 1, (other, "rpm"): 1, (other, "tpm"): 10}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("owner", ["key", "team"])
async def test_more_at_a_time_than_allowed_are_refused_until_clients_leave(
    metered: Metered, pace: Pace, upstream: Upstream, owner: str, stream: bool
) -> None:
    customer, kind = await Customer.of(metered, owner=owner, concurrency=2), CHATS[stream]
    async with customer.client() as client:
        async with asking(client, kind), asking(client, kind):
            await pace.visit(1)
            before = await customer.used()
            refused = await kind.ask(client)
            assert await customer.used() == before
        await metered.until(customer.leases, lambda held: held == 0)
        upstream.play(kind.at_once)
        assert (await kind.ask(client)).status_code == 200
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("requests", RATE)
    assert error["message"].startswith(f"The {owner}'s limit of 2 requests at a time is reached.")
    assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("1", "1000")
    assert "x-should-retry" not in refused.headers


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_end_of_an_answer_makes_room_for_the_next(
    metered: Metered, upstream: Upstream, stream: bool
) -> None:
    customer, kind = await Customer.of(metered, concurrency=1), CHATS[stream]
    upstream.play(kind.at_once)
    async with customer.client() as client:
        answers = [await kind.ask(client) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5
