"""What came of calls to upstreams, as metrics have it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from adapters import errors
from gateway.config import Retries
from gateway.upstreams.gate import Crowded
from gateway.upstreams.watcher import outcome_of
from tests.gateway.metrics.told import Told
from tests.gateway.running import CHAT, Gateway, events, settings, started_gateway

pytestmark = pytest.mark.anyio

SAID = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    once = settings().model_copy(update={"retries": Retries(attempts=1)})
    async with started_gateway(tmp_path, once) as made:
        yield made


def answering(status: int, **error: object) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, json={"error": {"message": "no", **error}})


def refusing(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def breaking_off(_: httpx.Request) -> httpx.Response:
    return events(SAID)  # without its end


def failing_later(_: httpx.Request) -> httpx.Response:
    return events(SAID, {"error": {"message": "no", "code": 500}})


def babbling(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text="no JSON")


@pytest.mark.parametrize(
    ("answer", "is_stream", "outcome"),
    [
        (None, False, "ok"),
        (None, True, "ok"),
        (refusing, False, "unreachable"),
        (answering(400), False, "rejected"),
        (answering(400), True, "rejected"),
        (answering(404), False, "model_missing"),
        (answering(401), False, "misconfigured"),
        (answering(429), False, "overloaded"),
        (answering(500), False, "failed"),
        (babbling, False, "interrupted"),
        (breaking_off, True, "interrupted"),
        (failing_later, True, "failed"),
    ],
)
async def test_each_call_is_counted_once_by_what_came_of_it(
    gateway: Gateway,
    answer: Callable[[httpx.Request], httpx.Response] | None,
    is_stream: bool,
    outcome: str,
) -> None:
    gateway.upstream.answer = answer
    async with gateway.client() as client:
        await client.post("/v1/chat/completions", json=CHAT | {"stream": is_stream})
        told = Told.of((await client.get("/metrics")).text)
    calls = [sample for sample in told.samples if sample.name == "dragoman_upstream_calls_total"]
    assert [(one.labels, one.value) for one in calls] == [
        ({"upstream": "openai", "model": "openai/model", "outcome": outcome}, 1)
    ]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errors.TimedOut, "timed_out"),
        (errors.ModelLoading, "loading"),
        (errors.HungUp, "hung_up"),
        (errors.OutOfCredits, "out_of_credits"),
        (errors.ContextTooLong, "context_too_long"),
        (Crowded, "crowded"),
    ],
)
def test_outcomes_are_named_as_the_errors_are(
    error: type[errors.UpstreamError], outcome: str
) -> None:
    assert outcome_of(error("no")) == outcome
