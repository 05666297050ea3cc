"""Every admitted exchange is one record, of what was received, however it ends."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.accounts import tag
from gateway.amounts import Usage
from gateway.book import Book, UsageFilter
from gateway.config import Settings
from gateway.quotas import Standing
from tests.acceptance.metering.customer import Customer, counting
from tests.acceptance.metering.exchange_kinds import (
    KINDS,
    Json,
    price_of,
    settings_of,
    untold,
)
from tests.acceptance.metering.pace import Pace, Witness, asking
from tests.gateway.image_route.painting import as_json
from tests.metered import Metered, metered_gateway
from tests.scripted_upstream import Upstream

pytestmark = pytest.mark.anyio

PAUSE_MS = 100
LONG_MS = 5000
# What the store tells of its clients. While nothing is settled, no script but the reservation has
# as much as a record in its arguments.
RESERVATION_WAITS = re.compile(rb"flags=b.* argv-mem=\d{3,} .* cmd=evalsha ")
MORE_WAITS_BEHIND_IT = re.compile(rb"flags=b.* qbuf=[1-9].* argv-mem=\d{3,} .* cmd=evalsha ")
LAST_BYTES = {
    **{name: b"data: [DONE]" for name in KINDS if KINDS[name].finish and KINDS[name].seen},
    "speech-events": b'"speech.audio.done"',
}
REFUSED: list[tuple[int, Json, Json]] = [
    (400, {}, {"temperature": 9}),
    (400, {}, {"response_format": {"type": "json_object"}}),  # the upstream's dialect has none
    (404, {}, {"model": "openai/unknown"}),
    (429, {"requests_per_day": 0}, {}),
    (429, {"tokens_per_day": 5}, {}),
]
LEFT = {"status": "disconnected", "finish": "client_disconnected"}
FAILED = {"status": "error", "finish": "upstream_error"}
NOTHING = Standing(0, 0, 0, 0, 0, 0, 0, 0)
LEAVES = [(name, steps) for name, kind in KINDS.items() for steps in range(len(kind.steps))]


@pytest.fixture
async def customer(metered: Metered) -> Customer:
    """One with limits, which are far off: so prompts are counted, and leases held."""
    return await Customer.of(metered, concurrency=100, tokens_per_day=10**9)


def told_by(record: Any) -> Usage:
    """Return what a record tells. It has no pixels."""
    names = ("input_tokens", "output_tokens", "images", "characters", "audio_ms", "estimated")
    return Usage(**{name: record[name] for name in names})


async def assert_charged(customer: Customer, used: Usage, **ended: str | None) -> None:
    """Check that there is one record, that it tells `used`, and that counters say the same."""
    [record] = await customer.records()
    assert told_by(record) == used
    assert {name: record[name] for name in ended} == ended
    assert record["nano_usd"] == price_of(used)
    standing = Standing(
        requests_level=0,
        tokens_level=0,
        requests=1,
        tokens=used.input_tokens + used.output_tokens,
        images=used.images,
        characters=used.characters if record["task"] == "speech" else 0,
        audio_ms=used.audio_ms if record["task"] == "transcription" else 0,
        nano_usd=record["nano_usd"],
    )
    assert await customer.used() == [standing, standing], "the key, and its team"
    assert await customer.written() == 1


async def assert_untouched(customer: Customer) -> None:
    """Check that nothing is recorded, counted or held."""
    assert await customer.leases() == 0
    assert await customer.used() == [NOTHING, NOTHING]
    assert await customer.written() == 0


@pytest.mark.parametrize(("name", "steps"), LEAVES)
async def test_a_client_that_leaves_is_charged_for_what_was_received(
    customer: Customer, pace: Pace, name: str, steps: int
) -> None:
    kind = KINDS[name]
    async with customer.client() as client, asking(client, kind) as reading:
        await pace.take(reading, steps)
    await assert_charged(customer, kind.used[steps], **LEFT)


@pytest.mark.parametrize("name", KINDS)
async def test_a_client_that_stays_is_charged_for_all(
    customer: Customer, pace: Pace, name: str
) -> None:
    kind = KINDS[name]
    async with customer.client() as client, asking(client, kind) as reading:
        await pace.take(reading, len(kind.steps))
        assert reading.status == 200
    await assert_charged(customer, kind.used[-1], status="ok", finish=kind.finish)


@pytest.mark.parametrize(("name", "steps"), LEAVES)
async def test_an_upstream_that_dies_is_paid_for_what_was_received(
    customer: Customer, pace: Pace, name: str, steps: int
) -> None:
    kind = KINDS[name]
    async with customer.client() as client, asking(client, kind) as reading:
        await pace.take(reading, steps)
        (await pace.due(reading)).reset()
        await reading.ends()
    await assert_charged(customer, kind.used[steps] if steps else Usage(), **FAILED)


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        *((name, 500, "upstream_error") for name in KINDS),
        ("openai-chat", 429, "rate_limit_exceeded"),
        ("hf-chat-stream", 429, "rate_limit_exceeded"),
    ],
)
async def test_an_upstream_that_refuses_costs_a_request_and_no_more(
    customer: Customer, pace: Pace, name: str, status: int, code: str
) -> None:
    async with customer.client() as client, asking(client, KINDS[name]) as reading:
        await (await pace.due(reading)).send(as_json({"error": "no"}, status=status))
        await reading.ends()
    await assert_charged(customer, Usage(), status="error", finish=code)


@pytest.mark.parametrize(("name", "steps"), [("openai-chat", 0), ("openai-chat-stream", 2)])
async def test_an_upstream_that_falls_silent_is_paid_for_what_was_received(
    customer: Customer, pace: Pace, name: str, steps: int
) -> None:
    kind = KINDS[name].having(model="hasty/text")
    async with customer.client() as client, asking(client, kind) as reading:
        await pace.take(reading, steps)
        await reading.ends()
    used = kind.used[steps] if steps else Usage()
    await assert_charged(customer, used, status="error", finish="upstream_timeout")


@pytest.mark.parametrize("name", ["openai-chat", "openai-chat-stream"])
async def test_an_upstream_out_of_reach_costs_a_request_and_no_more(
    customer: Customer, name: str
) -> None:
    kind = KINDS[name].having(model="gone/text")
    async with customer.client() as client, asking(client, kind) as reading:
        await reading.ends()
    await assert_charged(customer, Usage(), status="error", finish="upstream_unreachable")


@pytest.mark.parametrize("name", ["openai-chat", "openai-chat-stream"])
async def test_what_an_upstream_does_not_tell_is_estimated(
    customer: Customer, pace: Pace, name: str
) -> None:
    kind = untold(KINDS[name])
    async with customer.client() as client, asking(client, kind) as reading:
        await pace.take(reading, len(kind.steps))
    await assert_charged(customer, kind.used[-1], status="ok", finish="stop")


@pytest.mark.parametrize("name", KINDS)
async def test_the_record_is_in_the_store_before_the_last_byte_leaves(
    customer: Customer, pace: Pace, name: str
) -> None:
    kind, last = KINDS[name], LAST_BYTES.get(name, b"")
    async with customer.client() as client, asking(client, kind) as reading:
        await pace.take(reading, len(kind.steps) - 1)
        visit = await pace.due(reading)
        assert await customer.written() == 0
        # For a while scripts wait: an answer that does not wait for its record would be here first.
        await customer.metered.state.call("CLIENT", "PAUSE", PAUSE_MS, "WRITE")
        await visit.send(kind.steps[-1][1])
        await (reading.until(lambda data: last in data) if last else reading.ends())
        assert await customer.written() == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("status", "limits", "fields"), REFUSED)
async def test_a_refused_request_leaves_nothing_behind(
    metered: Metered, upstream: Upstream, stream: bool, status: int, limits: Json, fields: Json
) -> None:
    customer = await Customer.of(metered, **limits)
    body = {**KINDS["hf-chat-stream"].request["json"], **fields, "stream": stream}
    async with customer.client() as client:
        answer = await client.post("/chat/completions", json=body)
    assert answer.status_code == status
    assert upstream.visits == []
    await assert_untouched(customer)


async def test_a_client_that_leaves_while_it_is_being_admitted_leaves_nothing_behind(
    customer: Customer, upstream: Upstream
) -> None:
    metered, call = customer.metered, customer.metered.state.call
    clients, marks = partial(call, "CLIENT", "LIST"), f"mark:{tag(customer.account.shard)}:*"
    ended = len(await call("KEYS", marks))
    async with customer.client() as client:
        await call("CLIENT", "PAUSE", LONG_MS, "WRITE")
        async with asking(client, KINDS["openai-chat"]):
            await metered.until(clients, lambda told: bool(RESERVATION_WAITS.search(told)))
        await metered.until(clients, lambda told: bool(MORE_WAITS_BEHIND_IT.search(told)))
        await call("CLIENT", "UNPAUSE")
    await metered.until(lambda: call("KEYS", marks), lambda found: len(found) > ended)
    assert upstream.visits == []
    await assert_untouched(customer)


async def test_a_gateway_that_stops_settles_what_is_under_way(
    upstream: Upstream, tmp_path: Path
) -> None:
    settings, witness = Settings.model_validate(settings_of(upstream.url)), Witness()
    begun = {"openai-chat-stream": 2, "embeddings": 1, "speech-events": 1}
    async with (
        AsyncExitStack() as clients,
        metered_gateway(settings, tmp_path, transport=witness) as metered,
    ):
        await counting(metered)
        client = await clients.enter_async_context(metered.client(await metered.new_key()))
        for name, steps in begun.items():
            reading = await clients.enter_async_context(asking(client, KINDS[name]))
            pace = Pace(upstream, witness)
            await pace.take(reading, steps)
            await pace.visit(len({visit for visit, _ in KINDS[name].steps}) - 1)
    async with aclosing(await Book.open(tmp_path)) as book:
        rows = [row async for page in book.usage_rows(UsageFilter()) for row in page]
    assert {row["task"]: told_by(row) for row in rows} == {
        "chat": KINDS["openai-chat-stream"].used[2],
        "embedding": KINDS["embeddings"].used[1],
        "speech": KINDS["speech-events"].used[1],
    }
