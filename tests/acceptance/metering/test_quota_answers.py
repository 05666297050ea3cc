"""What clients are told of their limits: in headers, by `/v1/usage`, and when to come again."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from typing import Any, Self

import httpx
import openai
import pytest

from tests.acceptance.metering.customer import Customer
from tests.acceptance.metering.exchange_kinds import KINDS, Json
from tests.acceptance.metering.pace import Pace, asking
from tests.metered import Metered
from tests.patience import within
from tests.scripted_upstream import Upstream

pytestmark = pytest.mark.anyio

CHAT, STREAM = (KINDS[name].having(max_tokens=4) for name in ("openai-chat", "openai-chat-stream"))
RESERVED, USED = 20, 10  # tokens of each
SLOW: dict[str, Any] = {
    "rpm": 6,
    "rpm_burst": 5,
    "tpm": 1,
    "tpm_burst": 200,
}  # no clock is seen to tick
BUDGETS: dict[str, Any] = {"requests_per_day": 3, "tokens_per_day": 90}
COUNTERS = (
    "requests_today",
    "tokens_today",
    "images_today",
    "speech_characters_today",
    "audio_seconds_today",
    "usd_this_month",
)
NOTICED_SECONDS = 1.5  # half a second more than promised: other tests may run beside these
BETWEEN_SECONDS = 20  # at most, between two answers
UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}


async def usage(client: httpx.AsyncClient) -> Any:
    """Return what `/v1/usage` says."""
    answer = await client.get("/usage")
    assert answer.status_code == 200
    return answer.json()


def told_by(headers: Mapping[str, str], unit: str) -> tuple[int, int, float]:
    """Return limit, remaining, and the seconds until it is whole again."""
    limit, left, reset = (
        headers[f"x-ratelimit-{name}-{unit}"] for name in ("limit", "remaining", "reset")
    )
    parts = re.findall(r"([\d.]+)(ms|[hms])", reset)
    return int(limit), int(left), sum(float(number) * UNITS[name] for number, name in parts)


def binding(report: Json, *names: str) -> tuple[int, int, Any]:
    """Return the same of that limit among `names` in a usage report which has least left."""
    limits = [limit for limit in report["limits"] if limit["name"] in names]
    least = min(limits, key=lambda limit: limit["remaining"])
    resets_in_seconds = pytest.approx(least["resets_in_seconds"], abs=BETWEEN_SECONDS)
    return least["limit"], least["remaining"], resets_in_seconds


@pytest.mark.parametrize("kind", [CHAT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("limits", [SLOW, BUDGETS, SLOW | BUDGETS], ids=["rates", "days", "both"])
@pytest.mark.parametrize("owner", ["key", "team"])
async def test_headers_tell_what_usage_tells_of_the_limit_that_binds(
    metered: Metered, pace: Pace, kind: Any, limits: Json, owner: str
) -> None:
    customer = await Customer.of(metered, owner=owner, **limits)
    async with customer.client() as client, asking(client, kind) as reading:
        await pace.visit(0)
        meanwhile = await usage(client)
        await pace.take(reading, len(kind.steps))
    assert told_by(reading.headers, "requests") == binding(meanwhile, "rpm", "requests_per_day")
    assert told_by(reading.headers, "tokens") == binding(meanwhile, "tpm", "tokens_per_day")


@pytest.mark.parametrize("kind", [CHAT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize(("limits", "most"), [(SLOW, 5), (BUDGETS, 3)], ids=["rate", "day"])
async def test_remaining_falls_by_one_with_each_request_until_none_is_left(
    metered: Metered, upstream: Upstream, kind: Any, limits: Json, most: int
) -> None:
    customer = await Customer.of(metered, **limits)
    upstream.play(kind.at_once)
    async with customer.client() as client:
        answers = [await kind.ask(client) for _ in range(most + 1)]
        report = await usage(client)
    assert [answer.status_code for answer in answers] == [200] * most + [429]
    told = [told_by(answer.headers, "requests")[1] for answer in answers]
    assert told == [*range(most - 1, -1, -1), 0]
    requests, tokens = (told_by(answers[-1].headers, unit) for unit in ("requests", "tokens"))
    assert requests == binding(report, "rpm", "requests_per_day")
    assert tokens == binding(report, "tpm", "tokens_per_day")


async def test_a_key_without_limits_is_told_of_none(metered: Metered, upstream: Upstream) -> None:
    customer = await Customer.of(metered)
    upstream.play(CHAT.at_once)
    async with customer.client() as client:
        answer = await CHAT.ask(client)
        report = await usage(client)
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert report["limits"] == []
    counted = {"requests_today": 1, "tokens_today": USED, "usd_this_month": 0.00000455}
    used = dict.fromkeys(COUNTERS, 0) | counted
    assert report["used"] == {"key": used, "team": used}


async def test_a_key_without_a_team_is_told_of_itself(metered: Metered) -> None:
    key = await metered.new_key(rpm=60)
    async with metered.client(key, verify=False) as client:
        report = await usage(client)
    assert report["key"]["team"] is None
    assert report["used"] == {"key": dict.fromkeys(COUNTERS, 0)}
    assert [(one["scope"], one["name"]) for one in report["limits"]] == [("key", "rpm")]


async def test_usage_tells_every_limit_of_key_and_team(
    metered: Metered, upstream: Upstream
) -> None:
    customer = await Customer.of(metered, **SLOW, concurrency=2, usd_per_month=Decimal("0.5"))
    budgets = {"images_per_day": 4, "speech_characters_per_day": 40, "audio_seconds_per_day": 60}
    await customer.limit("team", **BUDGETS, **budgets)
    upstream.play(CHAT.at_once)
    async with customer.client() as client:
        await CHAT.ask(client)
        report = await usage(client)
    assert report["object"] == "usage"
    assert report["key"] == {"id": customer.key_id, "name": "test", "team": customer.team}
    rows = [
        (one["scope"], one["name"], one["limit"], one["used"], one["remaining"])
        for one in report["limits"]
    ]
    assert sorted(rows) == [
        ("key", "concurrency", 2, 0, 2),
        ("key", "rpm", 6, 1, 4),
        ("key", "tpm", 1, USED, 200 - USED),
        ("key", "usd_per_month", 0.5, 0.00000455, 0.49999545),
        ("team", "audio_seconds_per_day", 60, 0, 60),
        ("team", "images_per_day", 4, 0, 4),
        ("team", "requests_per_day", 3, 1, 2),
        ("team", "speech_characters_per_day", 40, 0, 40),
        ("team", "tokens_per_day", 90, USED, 90 - USED),
    ]


async def test_waiting_as_long_as_told_is_enough_and_not_too_long(
    metered: Metered, upstream: Upstream
) -> None:
    customer = await Customer.of(metered, rpm=20, rpm_burst=1)
    upstream.play(CHAT.at_once)
    async with customer.client() as client:
        before_first = time.monotonic()
        await CHAT.ask(client)
        before_second = time.monotonic()
        after_first = before_second
        refused = await CHAT.ask(client)
        after_second = time.monotonic()
        wait_ms = int(refused.headers["retry-after-ms"])
        # One in three seconds: the wait is what is left of them between the two requests.
        assert 1000 * (3 - after_second + before_first) <= wait_ms
        assert wait_ms <= 1000 * (3 - before_second + after_first) + 1
        await asyncio.sleep(wait_ms / 1000)
        assert (await CHAT.ask(client)).status_code == 200


async def test_waiting_as_long_as_told_is_enough_for_tokens(
    metered: Metered, upstream: Upstream
) -> None:
    customer = await Customer.of(metered, tpm=240, tpm_burst=RESERVED)
    upstream.play(CHAT.at_once)
    async with customer.client() as client:
        await CHAT.ask(client)
        refused = await CHAT.ask(client)
        wait_ms = int(refused.headers["retry-after-ms"])
        assert 0 < wait_ms <= 2500  # ten tokens at four a second
        await asyncio.sleep(wait_ms / 1000)
        assert (await CHAT.ask(client)).status_code == 200


@pytest.fixture
def sdk(metered: Metered) -> Iterator[Callable[[Customer], Sdk]]:
    """Make OpenAI's own client of a customer, which tries again twice."""
    with ExitStack() as closing:
        yield lambda customer: closing.enter_context(Sdk(metered.base_url, customer.key))


class Sdk:
    """OpenAI's own client. `statuses` of all answers that it got, in their order."""

    def __init__(self, base_url: str, key: str) -> None:
        self.statuses: list[int] = []
        hooks = {"response": [lambda answer: self.statuses.append(answer.status_code)]}
        http = openai.DefaultHttpxClient(event_hooks=hooks, verify=False, trust_env=False)
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key, max_retries=2, http_client=http
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    async def chat(self) -> Any:
        """Ask, in a thread, as the client blocks."""
        body = CHAT.request["json"]
        return await asyncio.to_thread(lambda: self._client.chat.completions.create(**body))


async def test_the_sdk_comes_again_when_it_was_told_to(
    metered: Metered, upstream: Upstream, sdk: Callable[[Customer], Sdk]
) -> None:
    client = sdk(await Customer.of(metered, rpm=20, rpm_burst=1))
    upstream.play(CHAT.at_once)
    for _ in range(2):
        assert (await client.chat()).choices
    # By its own mind it would come again after half a second, too early, and then once more.
    assert client.statuses == [200, 429, 200]


@pytest.mark.parametrize(
    ("limits", "statuses", "code"),
    [
        ({"requests_per_day": 1}, [200, 429], "insufficient_quota"),
        ({"tokens_per_day": RESERVED - 1}, [429], "insufficient_quota"),
        ({"tpm": RESERVED - 1}, [429], "rate_limit_exceeded"),
    ],
    ids=["spent", "never fits the day", "never fits the minute"],
)
async def test_the_sdk_does_not_come_again_when_it_was_told_not_to(
    metered: Metered,
    upstream: Upstream,
    sdk: Callable[[Customer], Sdk],
    limits: Json,
    statuses: list[int],
    code: str,
) -> None:
    client = sdk(await Customer.of(metered, **limits))
    upstream.play(CHAT.at_once)
    for _ in statuses[1:]:
        await client.chat()
    with pytest.raises(openai.RateLimitError) as refused:
        await client.chat()
    assert refused.value.code == code
    assert client.statuses == statuses


def has_status(status: int, answer: httpx.Response) -> bool:
    return answer.status_code == status


@pytest.mark.parametrize("owner", ["key", "team"])
async def test_a_changed_limit_binds_within_a_second(
    metered: Metered, upstream: Upstream, owner: str
) -> None:
    customer = await Customer.of(metered, owner=owner, requests_per_day=1)
    upstream.play(CHAT.at_once)
    async with customer.client() as client:
        assert [(await CHAT.ask(client)).status_code for _ in range(2)] == [200, 429]
        for limit, status in ((2, 200), (2, 429), (None, 200)):
            await customer.limit(owner, requests_per_day=limit)
            async with within(NOTICED_SECONDS):
                await metered.until(partial(CHAT.ask, client), partial(has_status, status))
